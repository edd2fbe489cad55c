"""Files under local paths and s3:// addresses, through one set of functions.

Everything that the platform reads or writes goes through here, so that a run on S3 behaves as one on a disk:
writes are whole or absent, missing things and missing rights are one clear sentence, and no secret is ever part
of a message.  Credentials, region and endpoint come from where the AWS tools look for them (environment, shared
files, instance role; AWS_ENDPOINT_URL for other servers).
"""

from __future__ import annotations

import os
import posixpath
import random
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, Any, TypeVar

from lumiray.errors import UserError

_ATTEMPTS = 6
_T = TypeVar("_T")


class NotThere(UserError, FileNotFoundError):
    """A file or folder that does not exist."""


class NoBucket(NotThere):
    """A bucket that does not exist."""


class NoAccess(UserError, PermissionError):
    """A file, folder or bucket that these credentials may not read or write."""


class Unreachable(UserError, ConnectionError):
    """A store that did not answer, also after several attempts."""


@dataclass(frozen=True)
class Entry:
    """One name in a folder.

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
        url = f"{url.rstrip('/') or '/'}/{part}".replace("//", "/", 1) if url == "/" else f"{url.rstrip('/')}/{part}"
    return url


def absolute(url: str) -> str:
    """The same place, said in a way that holds in any working directory; s3:// addresses stay as they are."""
    return url if is_s3(url) else os.path.abspath(local_path(url))


def parent(url: str) -> str:
    """The folder that holds an address (`.` for a bare file name)."""
    return posixpath.dirname(url.rstrip("/")) or "."


def base_name(url: str) -> str:
    """The last part of an address."""
    return posixpath.basename(url.rstrip("/"))


def exists(url: str) -> bool:
    """True if a file or folder is there; raises `NoAccess` where that may not be known."""
    try:
        return entry(url) is not None
    except NotThere:
        return False


def entry(url: str) -> Entry:
    """Size and modification mark of one file.

    Raises:
        NotThere, NoAccess, Unreachable: with what, where and the mend.
    """
    with clear_errors(url, "look at"):
        if not is_s3(url):
            path = local_path(url)
            status = os.stat(path)
            return Entry(base_name(path), status.st_size, f"mtime:{status.st_mtime_ns}", os.path.isdir(path))
        return _s3_entry(_s3(url).info(url))


def list_entries(folder: str, prefix: str = "") -> list[Entry]:
    """What lies directly in a folder, sorted by name; on S3 one request per thousand names.

    Args:
        prefix: only names that start with it.

    Returns:
        entries; an empty list if the folder is not there (S3 has no folders, only names).
    """
    with clear_errors(folder, "list"):
        if is_s3(folder):
            store = _s3(folder)
            found = store.find(folder.rstrip("/"), maxdepth=1, withdirs=True, detail=True, prefix=prefix)
            if not found and not store.exists(_bucket(folder)):  # s3fs lists an absent bucket as an empty one
                raise _no_bucket(folder, "list")
            entries = [_s3_entry(info) for path, info in found.items() if path.rstrip("/") != _bare(folder)]
        else:
            try:
                entries = [_local_entry(item) for item in os.scandir(local_path(folder))]
            except (FileNotFoundError, NotADirectoryError):
                entries = []
        return sorted((e for e in entries if e.name.startswith(prefix)), key=lambda e: e.name)


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
        return _s3(url).open(url, mode, **text)


def read_bytes(url: str) -> bytes:
    """A whole file."""
    with clear_errors(url, "read"):
        if is_s3(url):
            return retried(lambda: _s3(url).cat_file(url))
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
            return s3_ranges([(url, start, length) for start, length in ranges])
        handle = os.open(local_path(url), os.O_RDONLY)
        try:
            pieces = [_pread(handle, start, length) for start, length in ranges]
        finally:
            os.close(handle)
    for piece, (start, length) in zip(pieces, ranges, strict=True):
        _check_length(url, start, length, piece)
    return pieces


def s3_ranges(ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
    """(url, start, length) ranges of s3 objects, fetched in parallel; what failed is asked again, with backoff.

    Raises:
        NotThere, NoAccess: at once.  Unreachable: after the last attempt.
    """
    pieces: dict[int, bytes] = {}
    waiting = [number for number, (_, _, length) in enumerate(ranges) if length]
    pieces.update((number, b"") for number, (_, _, length) in enumerate(ranges) if not length)
    for attempt in range(_ATTEMPTS):
        asked = [ranges[number] for number in waiting]
        if not asked:
            break
        if attempt:
            _back_off(attempt)
        answers = _s3(asked[0][0]).cat_ranges(
            [url for url, _, _ in asked],
            [start for _, start, _ in asked],
            [start + length for _, start, length in asked],
            on_error="return",
        )
        failures = {}
        for number, (url, start, length), answer in zip(waiting, asked, answers, strict=True):
            if isinstance(answer, bytes) and len(answer) == length:
                pieces[number] = answer
            else:
                failures[number] = answer
                if isinstance(answer, Exception) and not _is_passing(answer):
                    with clear_errors(url, "read"):
                        raise answer
        waiting = list(failures)
    if waiting:
        url, start, length = ranges[waiting[0]]
        with clear_errors(url, "read"):
            if isinstance(failures[waiting[0]], Exception):
                raise failures[waiting[0]]
        _check_length(url, start, length, failures[waiting[0]])
    return [pieces[number] for number in range(len(ranges))]


def write_atomically(url: str, data: bytes) -> None:
    """Write a file that is there whole or not at all, also after a crash (on S3: one put)."""
    with clear_errors(url, "write"):
        if is_s3(url):
            retried(lambda: _s3(url).pipe_file(url, data))
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
            retried(lambda: _s3(url).put_file(path, url))
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
            if len(_bare(url).split("/")) < 2:
                raise UserError(f"{url} is a whole bucket, which is never removed: name a folder in it.")
            store = _s3(url)
            names = store.find(_bare(url))
            if names:
                store.rm(names)
            return
        path = local_path(url)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)


def retried(action: Callable[[], _T]) -> _T:
    """Do something on S3 again, with growing pauses, while its failures look as if they would pass."""
    for attempt in range(_ATTEMPTS):
        try:
            return action()
        except Exception as error:
            if attempt == _ATTEMPTS - 1 or not _is_passing(error):
                raise
            _back_off(attempt + 1)
    raise AssertionError("unreachable")


@contextmanager
def clear_errors(url: str, verb: str) -> Iterator[None]:
    """Turn the errors of file systems into sentences for users; the store's own text, which may quote, is left out."""
    where = without_secrets(url)
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        if _code(error) == "NoSuchBucket":
            raise _no_bucket(url, verb) from None
        raise NotThere(f"Cannot {verb} {where}: it is not there. Check the address.") from None
    except PermissionError:
        mend = (
            "Check the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE or the instance's role) and the bucket's policy."
            if is_s3(url)
            else "Check the rights of the file and of its folder."
        )
        raise NoAccess(f"Cannot {verb} {where}: no permission. {mend}") from None
    except (IsADirectoryError, NotADirectoryError):
        raise UserError(f"Cannot {verb} {where}: a folder where a file should be, or the other way round.") from None
    except Exception as error:
        if not is_s3(url):
            raise
        name = type(error).__name__
        if name in (
            "NoCredentialsError",
            "PartialCredentialsError",
            "ProfileNotFound",
            "TokenRetrievalError",
        ):
            raise NoAccess(
                f"Cannot {verb} {where}: no S3 credentials found. Set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role."
            ) from None
        if _is_passing(error):
            raise Unreachable(
                f"Cannot {verb} {where}: {_endpoint()} does not answer as it should ({name}), also after "
                "several attempts. Check the network, AWS_ENDPOINT_URL and AWS_REGION."
            ) from None
        raise


def without_secrets(url: str) -> str:
    """An address without user, password and query, as it may stand in a message or a log."""
    if "://" not in url:
        return url
    scheme, rest = url.split("://", 1)
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path.partition('?')[0]}"


def _check_length(url: str, start: int, length: int, piece: Any) -> None:
    if not isinstance(piece, bytes) or len(piece) != length:
        got = len(piece) if isinstance(piece, bytes) else 0
        raise UserError(
            f"{without_secrets(url)} ends too early: {length} bytes at offset {start} were wanted, {got} came. "
            "It is truncated, or was replaced since it was listed."
        )


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


def _back_off(attempt: int) -> None:
    time.sleep(min(8.0, 0.2 * 2**attempt) * (0.5 + random.random() / 2))


def _code(error: BaseException) -> str:
    """The S3 error code behind an exception, or an empty string."""
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _is_passing(error: Exception) -> bool:
    """True for throttling, broken connections and server errors; False for what asking again cannot mend."""
    if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)):
        return False
    module = type(error).__module__.split(".")[0]
    return isinstance(error, (OSError, TimeoutError)) or module in (
        "botocore",
        "aiobotocore",
        "aiohttp",
        "urllib3",
    )


def _local_entry(item: os.DirEntry[str]) -> Entry:
    try:
        status = item.stat()
    except FileNotFoundError:  # a dangling link, or removed since it was listed
        return Entry(item.name, 0, "mtime:0")
    return Entry(item.name, status.st_size, f"mtime:{status.st_mtime_ns}", item.is_dir())


def _s3_entry(info: dict[str, Any]) -> Entry:
    folder = info.get("type") == "directory"
    mark = f"etag:{str(info.get('ETag', '')).strip(chr(34))}"
    return Entry(base_name(info["name"]), int(info.get("size") or 0), mark, folder)


def _no_bucket(url: str, verb: str) -> NoBucket:
    return NoBucket(
        f"Cannot {verb} {without_secrets(url)}: there is no bucket {_bucket(url)!r} at {_endpoint()}. "
        "Check its name, and AWS_ENDPOINT_URL if it lies on a server of your own."
    )


def _bucket(url: str) -> str:
    return _bare(url).split("/")[0]


def _bare(url: str) -> str:
    return url[len("s3://") :].rstrip("/")


def _endpoint() -> str:
    address = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return without_secrets(address) if address else "Amazon S3"


def _s3(url: str) -> Any:
    """The S3 file system of this process.

    Raises:
        UserError: the address carries credentials.
    """
    if "@" in _bare(url).split("/")[0]:
        raise UserError(
            f"{without_secrets(url)} was given with credentials inside: leave them out of the address and set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
        )
    return _s3_of_process(os.getpid())


@lru_cache(maxsize=1)
def _s3_of_process(process: int) -> Any:
    import s3fs

    # listings are not cached: a shard that was added or replaced must be seen
    return s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
