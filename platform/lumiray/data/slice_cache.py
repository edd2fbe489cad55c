"""Slices of shards kept on a local disk: what one process of a host fetched, all of them read from there.

A slice is a few neighbouring rows of a shard as they are stored (`fetch_rows`).  It is one file, named by a hash of
shard, size, mark and range, so a shard that was replaced is another name and is never served from the old file.  A
file begins with that name, its length and a checksum: one that is torn, damaged or in another's place is no hit, and
is removed.  It is written under another name and renamed, so two writers write the same and the last one stays; a
writer that was killed leaves a file that nobody reads, and that is swept when it is old.

The least recently used go first.  All writers of a host add to one record of bytes, so the limit holds for them
together; the folder itself is listed only by the one that makes room, and once an hour.

A cache never stops a run: a disk that is full or read-only is done without, and said once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, NamedTuple

FOLDER = "lumiray-slices"  # below the user's folder, so that all in it may be removed
_HEAD = struct.Struct("<8s16sQI")  # form, name, length, CRC-32
_FORM = b"lumirow1"
_TOTAL = struct.Struct("<qd")  # bytes of all slices, and when they were last counted
FILLED = 0.9  # share of the limit that is left when room was made
_LARGEST = 0.1  # share of the limit that one slice may take
_USED_AGAIN_S = 60.0  # a file's time of use is that old at most
_COUNT_AGAIN_S = 3600.0
_ABANDONED_S = 3600.0  # a file under its temporary name has lost its writer
_REST_S = 300.0  # after a failure nothing is written for a while
_told: set[str] = set()  # folders that this process has said something about


def name_of(url: str, size: int, mark: str, start: int, stop: int) -> str:
    """Name of the bytes [start, stop) of a shard in one state: 32 hexadecimal digits.

    Args:
        size, mark: of the shard, as in `listing.Listed`.
    """
    about = "\0".join((url, str(size), mark, str(start), str(stop)))
    return hashlib.blake2b(about.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


class SliceCache:
    """Slices on a disk of this host, in any number of processes; small when pickled.

    Args:
        folder: the user's; made when it is first written to.
        limit_bytes: of all files together.
    """

    def __init__(self, folder: str, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self._home = os.path.join(folder, FOLDER)
        self._rests_until = 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        return SliceCache, (self.folder, self.limit_bytes)

    def read(self, name: str, length: int) -> bytes | None:
        """The slice of this name (`name_of`) and length; None where it is not here."""
        path = self._path(name)
        try:
            with open(path, "rb") as file:
                used = os.fstat(file.fileno()).st_mtime
                head, data = file.read(_HEAD.size), file.read(length + 1)
        except OSError:
            return None
        if len(data) != length or head != _head(name, data):
            with suppress(OSError):
                os.unlink(path)
            return None
        if time.time() - used > _USED_AGAIN_S:
            with suppress(OSError):  # removed by now, or not ours to touch
                os.utime(path)
        return data

    def has(self, name: str) -> bool:
        """Whether there is a slice of this name; `read` says whether it is as it should be."""
        return os.path.exists(self._path(name))

    def can_take(self, size: int) -> bool:
        """Whether so many bytes of slices have a place here, and writing has not just failed."""
        return size <= self.limit_bytes * FILLED and time.monotonic() >= self._rests_until

    def turn(self, name: str) -> AbstractContextManager[None]:
        """As `one_at_a_time`, for the processes that share this cache."""
        path = os.path.join(self._home, name[:2], f"{name}.turn")  # swept with what writers leave behind
        with suppress(OSError):
            os.makedirs(os.path.dirname(path), exist_ok=True)
        return one_at_a_time(path, os.O_RDWR | os.O_CREAT)

    def keep(self, name: str, data: bytes) -> None:
        """Write a slice, if there is room: whole or not at all, and never an error."""
        size = _HEAD.size + len(data)
        if size > self.limit_bytes * _LARGEST or time.monotonic() < self._rests_until:
            return
        try:
            os.makedirs(os.path.dirname(self._path(name)), exist_ok=True)
            total, counted = self._account()
            if total + size > self.limit_bytes or time.time() - counted > _COUNT_AGAIN_S:
                self._make_room(size)
                total, _ = self._account()
            if total + size <= self.limit_bytes:  # another process may be making room: that takes seconds at most
                self._write(name, data)
                self._account(size)
        except OSError as error:
            self._rests_until = time.monotonic() + _REST_S
            if self.folder not in _told:
                _told.add(self.folder)
                print(
                    f"note: --data.cache {self.folder} cannot be written ({error.strerror or error}): rows are read "
                    "from S3 without it. Make room or give rights there, or name another folder.",
                    flush=True,
                )

    def _path(self, name: str) -> str:
        return os.path.join(self._home, name[:2], f"{name}.rows")

    def _write(self, name: str, data: bytes) -> None:
        """Not synced, for a file that a crash tore is found out when it is read."""
        path = self._path(name)
        temporary = f"{path}.{uuid.uuid4().hex[:12]}.tmp"
        try:
            with open(temporary, "xb") as file:
                file.write(_head(name, data))
                file.write(data)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    def _account(self, added: int = 0, now: float | None = None) -> _Total:
        """Bytes of all slices after some were added, and when they were last counted: now, or as recorded."""
        with _opened(os.path.join(self._home, "total")) as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            stored = os.pread(handle, _TOTAL.size, 0)
            total = _Total(*_TOTAL.unpack(stored)) if len(stored) == _TOTAL.size else _Total(0, 0.0)
            if added or now is not None:
                total = _Total(max(0, total.bytes + added), total.counted if now is None else now)
                os.pwrite(handle, _TOTAL.pack(*total), 0)
            return total

    def _make_room(self, size: int) -> None:
        """Count all files, and remove those least recently used if there is no room for `size` more bytes."""
        with _opened(os.path.join(self._home, "making-room")) as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # another process is at it
            recorded = self._account().bytes
            slices = sorted(self._slices())
            left = sum(one.size for one in slices)
            if left + size > self.limit_bytes:
                for one in slices:
                    if left + size <= self.limit_bytes * FILLED:
                        break
                    with suppress(FileNotFoundError):
                        os.unlink(one.path)
                    left -= one.size
            self._account(left - recorded, time.time())  # what others have written meanwhile stays counted

    def _slices(self) -> Iterator[_Slice]:
        """All files; those that a writer left behind are removed."""
        for folder in os.scandir(self._home):
            if not folder.is_dir():
                continue
            for file in os.scandir(folder.path):
                with suppress(FileNotFoundError):
                    about = file.stat()
                    if file.name.endswith(".rows"):
                        yield _Slice(about.st_mtime, about.st_size, file.path)
                    elif time.time() - about.st_mtime > _ABANDONED_S:
                        os.unlink(file.path)


class _Total(NamedTuple):
    bytes: int
    counted: float


class _Slice(NamedTuple):
    """A file: when it was last used, in seconds since the epoch, its bytes, and where it is."""

    used: float
    size: int
    path: str


def _head(name: str, data: bytes) -> bytes:
    return _HEAD.pack(_FORM, bytes.fromhex(name), len(data), zlib.crc32(data))


@contextmanager
def one_at_a_time(path: str, flags: int = os.O_RDONLY) -> Iterator[None]:
    """Wait until no other process or thread of this host is in here with this file; a killed one is out.

    What is done inside must be right without, too: a file that cannot be locked holds nobody up.
    """
    handle: int | None = None
    try:
        with suppress(OSError):
            handle = os.open(path, flags, 0o666)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        if handle is not None:
            os.close(handle)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    """A file to lock: the lock goes with the handle, also when its process is killed."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield handle
    finally:
        os.close(handle)
