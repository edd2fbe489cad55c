"""Files under local paths and s3:// addresses, through one set of functions.

Everything that the platform reads or writes goes through here, so that a run on S3 behaves as one on a disk:
writes are whole or absent, missing things and missing rights are one clear sentence (`storage_errors`), and no
secret is ever part of a message.
"""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import IO, Any, NamedTuple

from lumiray import s3
from lumiray.errors import UserError
from lumiray.storage_errors import (
    NoAccess,
    NoBucket,
    NotThere,
    TooShort,
    Unreachable,
    clear_errors,
    no_bucket,
    without_secrets,
)
from lumiray.uncollected import uncollected

__all__ = [
    "Entry",
    "NoAccess",
    "NoBucket",
    "NotThere",
    "TooShort",
    "Unreachable",
    "absolute",
    "base_name",
    "clear_errors",
    "entry",
    "exists",
    "is_s3",
    "join",
    "list_entries",
    "list_names",
    "local_path",
    "make_folder",
    "modified",
    "open_url",
    "parent",
    "put_file",
    "read_bytes",
    "read_range",
    "read_ranges",
    "remove_tree",
    "s3_ranges",
    "whole_file",
    "without_secrets",
    "write_atomically",
]

s3_ranges = s3.ranges


class Entry(NamedTuple):
    """One name in a folder; a folder may hold a hundred thousand.

    Args:
        name: base name.
        size: bytes.
        mark: changes whenever the content does: `mtime:<ns>` of a local file, `etag:<value>` of an object.
        folder: True for a folder; its size and mark say nothing.
    """

    name: str
    size: int
    mark: str
    folder: bool = False


def is_s3(url: str) -> bool:
    """True for an s3:// address."""
    return url.startswith("s3://")


def local_path(url: str) -> str:
    """The path behind a local address (a plain path or file://).

    Raises:
        UserError: the address has another scheme.
    """
    if url.startswith("file://"):
        return url[len("file://") :] or "/"
    if url.startswith("pipe:") or "://" in url:
        scheme = url.split(":", 1)[0]
        raise UserError(f"Addresses with {scheme!r} are not read: give a local path or an s3:// address.")
    return url


def join(url: str, *parts: str) -> str:
    """Put names below a folder; names are joined with / and never leave it by being absolute."""
    for part in parts:
        url = f"{url.rstrip('/')}/{part}"
    return url


def absolute(url: str) -> str:
    """The same place, said in a way that holds in any working directory; s3:// addresses stay as they are."""
    return url if is_s3(url) else os.path.abspath(local_path(url))


def parent(url: str) -> str:
    """The folder that holds an address (`.` for a bare file name)."""
    head = url.rstrip("/").rpartition("/")
    return head[0].rstrip("/") or head[1] or "."


def base_name(url: str) -> str:
    """The last part of an address."""
    return url.rstrip("/").rpartition("/")[2]


def exists(url: str) -> bool:
    """True if a file or folder is there; raises `NoAccess` where that may not be known."""
    try:
        return entry(url) is not None
    except NotThere:
        return False


def entry(url: str, listed: bool = False) -> Entry:
    """Size and modification mark of one file.

    Args:
        listed: a listing has named it; a store on S3 that does not know it yet is asked again.

    Raises:
        NotThere, NoAccess, Unreachable: with what, where and the mend.
    """
    try:
        with clear_errors(url, "look at"):
            if not is_s3(url):
                path = local_path(url)
                status = os.stat(path)
                return Entry(base_name(path), status.st_size, f"mtime:{status.st_mtime_ns}", os.path.isdir(path))
            ask = s3.until_there if listed else s3.retried
            return _s3_entry(ask(lambda: s3.client(url).info(url)))
    except NotThere as error:
        if not listed or isinstance(error, NoBucket):
            raise
        raise NotThere(
            f"{without_secrets(url)} is not there, though a listing of its folder named it: it was removed, or its "
            "store lags behind. Put it back, or leave it out."
        ) from None


def modified(url: str) -> float:
    """When a file was last written, in seconds since 1970.

    Raises:
        NotThere, NoAccess, Unreachable: with what, where and the mend.
    """
    with clear_errors(url, "look at"):
        if not is_s3(url):
            return os.stat(local_path(url)).st_mtime
        return float(s3.retried(lambda: s3.client(url).info(url))["LastModified"].timestamp())


@uncollected
def list_entries(folder: str, prefix: str = "") -> list[Entry]:
    """What lies directly in a folder, sorted by name; on S3 one request per thousand names.

    Args:
        prefix: only names that start with it.

    Returns:
        entries; an empty list if the folder is not there (S3 has no folders, only names).
    """
    with clear_errors(folder, "list"):
        if is_s3(folder):
            store, path = s3.client(folder), s3.path_of(folder)
            found = s3.retried(lambda: store.find(path, maxdepth=1, withdirs=True, detail=True, prefix=prefix))
            if not found and not store.exists(s3.bucket_of(folder)):  # s3fs lists an absent bucket as an empty one
                raise no_bucket(folder, f"Cannot list {without_secrets(folder)}")
            entries = [_s3_entry(info) for name, info in found.items() if name.rstrip("/") != path]
        else:
            try:
                entries = [_local_entry(item) for item in os.scandir(local_path(folder))]
            except (FileNotFoundError, NotADirectoryError):
                entries = []
        found = [one for one in entries if one.name.startswith(prefix)] if prefix else entries
        return sorted(found, key=attrgetter("name"))


def list_names(folder: str) -> list[str]:
    """Sorted base names of the files and folders directly in a folder; empty if it is not there."""
    return [each.name for each in list_entries(folder)]


def open_url(url: str, mode: str = "rb") -> IO[Any]:
    """Open a file for reading or writing; a local file's folder is made when writing.

    Raises:
        NotThere, NoAccess, Unreachable: with what, where and the mend.
    """
    with clear_errors(url, "open"):
        if not is_s3(url):
            path = local_path(url)
            if "r" not in mode:
                os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            return open(path, mode, encoding=None if "b" in mode else "utf-8")
        text = {} if "b" in mode else {"encoding": "utf-8"}
        opened: IO[Any] = s3.client(url).open(url, mode, **text)
        return opened


def read_bytes(url: str) -> bytes:
    """A whole file."""
    with clear_errors(url, "read"):
        if is_s3(url):
            data: bytes = s3.retried(lambda: s3.client(url).cat_file(url))
            return data
        with open(local_path(url), "rb") as file:
            return file.read()


def read_range(url: str, start: int, length: int) -> bytes:
    """Bytes [start, start + length) of a file.

    Raises:
        UserError: the file is shorter than that; or as `open_url`.
    """
    return read_ranges(url, [(start, length)])[0]


def read_ranges(url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Several (start, length) ranges of one file; in parallel and with retries on S3."""
    with clear_errors(url, "read"):
        if is_s3(url):
            return s3.ranges([(url, start, length) for start, length in ranges])
        handle = os.open(local_path(url), os.O_RDONLY)
        try:
            pieces = [_pread(handle, start, length) for start, length in ranges]
        finally:
            os.close(handle)
    for piece, (start, length) in zip(pieces, ranges, strict=True):
        if len(piece) != length:
            raise s3.too_short(url, start, length, len(piece))
    return pieces


def write_atomically(url: str, data: bytes) -> None:
    """Write a file that is there whole or not at all, also after a crash (on S3: one put)."""
    with clear_errors(url, "write"):
        if is_s3(url):
            s3.retried(lambda: s3.client(url).pipe_file(url, data))
            return
        with whole_file(local_path(url)) as file:
            file.write(data)


@contextmanager
def whole_file(path: str) -> Iterator[IO[bytes]]:
    """A local file under another name, which takes its own when it was written to the end and is on the disk."""
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{os.path.basename(path)}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)  # the name itself
    finally:
        os.close(handle)


def put_file(path: str, url: str) -> None:
    """Copy a local file to an address; whole or not at all."""
    with clear_errors(url, "write"):
        if is_s3(url):
            s3.retried(lambda: s3.client(url).put_file(path, url))
            return
        with open(path, "rb") as source, whole_file(local_path(url)) as target:
            shutil.copyfileobj(source, target, 1 << 20)


def make_folder(url: str) -> None:
    """Make a local folder and those above it; S3 needs none."""
    if not is_s3(url):
        with clear_errors(url, "make"):
            os.makedirs(local_path(url), exist_ok=True)


def remove_tree(url: str) -> None:
    """Remove a file, or a folder with all below it; nothing happens if it is not there."""
    with clear_errors(url, "remove"):
        if is_s3(url):
            if len(s3.path_of(url).split("/")) < 2:
                raise UserError(f"{url} is a whole bucket, which is never removed: name a folder in it.")
            store = s3.client(url)
            names = store.find(s3.path_of(url))
            if names:
                store.rm(names)
            return
        path = local_path(url)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)


def _pread(handle: int, start: int, length: int) -> bytes:
    """pread may give less than was asked (2 GiB at most per call on Linux)."""
    piece = os.pread(handle, length, start)
    if len(piece) in (0, length):
        return piece
    pieces = [piece]
    done = len(piece)
    while done < length and (piece := os.pread(handle, length - done, start + done)):
        pieces.append(piece)
        done += len(piece)
    return b"".join(pieces)


def _local_entry(item: os.DirEntry[str]) -> Entry:
    try:
        status = item.stat()
    except FileNotFoundError:  # a dangling link, or removed since it was listed
        return Entry(item.name, 0, "mtime:0")
    return Entry(item.name, status.st_size, f"mtime:{status.st_mtime_ns}", stat.S_ISDIR(status.st_mode))


def _s3_entry(info: dict[str, Any]) -> Entry:
    folder = info.get("type") == "directory"
    mark = f"etag:{str(info.get('ETag', '')).strip(chr(34))}"
    return Entry(base_name(info["name"]), int(info.get("size") or 0), mark, folder)
