"""A file as a window that is read from left to right: mapped from a disk, or by large pieces from S3.

Walking over an archive asks for half a kilobyte here and there.  On a disk that is a memory map; on S3 it is a
few large requests, and a member longer than one of them is jumped over without being fetched.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lumiray.storage import clear_errors, entry, is_s3, local_path, read_range

_PIECE = 8 << 20


@dataclass(frozen=True)
class Window:
    """`size` bytes, and `read(offset, length)`, which gives fewer only past the end."""

    size: int
    read: Callable[[int, int], bytes]

    @classmethod
    def over(cls, data: bytes | mmap.mmap) -> Window:
        """A window over bytes in memory."""
        return cls(len(data), lambda offset, length: bytes(data[offset : offset + length]))


@contextmanager
def window_of(url: str) -> Iterator[Window]:
    """Open a file as a window."""
    if is_s3(url):
        yield _pieces(url, entry(url, listed=True).size)
        return
    with clear_errors(url, "read"), open(local_path(url), "rb") as file:
        file.seek(0, 2)
        if file.tell() == 0:  # cannot be mapped
            yield Window.over(b"")
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield Window.over(data)


def _pieces(url: str, size: int) -> Window:
    held_start, held = 0, b""

    def read(offset: int, length: int) -> bytes:
        nonlocal held_start, held
        length = max(0, min(length, size - offset))
        if not held_start <= offset or offset + length > held_start + len(held):
            held = read_range(url, offset, min(max(length, _PIECE), size - offset))
            held_start = offset
        return held[offset - held_start : offset - held_start + length]

    return Window(size, read)
