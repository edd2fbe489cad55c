"""Rows inside tar archives, found without unpacking anything.

A shard comes from strangers: names may try to leave a folder, members may be links, sizes may lie.  This reader
only ever looks at bytes in memory.  It takes plain files, skips everything else, and uses a name for nothing but
splitting it into key and part (WebDataset's rule: neighbouring members with the same path up to the first dot of
the base name are one row).

    scan = scan_shard(url)                 where each row begins and how long it is, from the headers alone
    read_row(data, identity)               one row from the bytes that `scan` pointed at
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from lumiray.data.fetch import Window, window_of
from lumiray.data.header import BLOCK, Header, TarError, padded, parse_header, parse_pax
from lumiray.errors import UserError
from lumiray.storage import without_secrets
from lumiray.system import BadRow, Row

_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$", re.DOTALL)  # WebDataset's `base_plus_ext`
_META = re.compile(r"__[^/]*__($|/)")  # and the names that it leaves to itself
_LONGEST_NAME = 1 << 20
MAX_ROW_BYTES = 1 << 30
"""Rows that are longer are bad rows, refused before they are read: no picture with its text is a gigabyte."""


class BadShard(UserError):
    """An archive that cannot be read to its end; the message names shard and offset."""


class Member(NamedTuple):
    """One plain file of an archive: where its headers begin, where its data lie, where the next member begins."""

    name: str
    start: int
    data: int
    size: int

    @property
    def end(self) -> int:
        """Where the next header is."""
        return self.data + padded(self.size)


@dataclass(frozen=True)
class ShardScan:
    """Where the rows of a shard are.

    Args:
        row_offsets: first byte of each row's first header, int64 (n,).
        row_lengths: bytes from there to the end of the row's last member, padding included, int64 (n,).
        keys: of each row.
        extensions: part (`jpg`, `lq.png`) -> rows that have it.
        duplicates: keys that came again, at most 100 of them.
        ended: True if the archive closes with a block of zeros, as writers that finished leave it.
    """

    row_offsets: np.ndarray
    row_lengths: np.ndarray
    keys: tuple[str, ...] = ()
    extensions: dict[str, int] = field(default_factory=dict)
    duplicates: tuple[str, ...] = ()
    ended: bool = True

    def __len__(self) -> int:
        return len(self.row_offsets)


def split_name(name: str) -> tuple[str, str] | None:
    """Key and part of a member's name, or None for names that belong to no row.

    Absolute names, names with `..` and names with control characters are none of ours.
    """
    if name.startswith("/") or ".." in name.split("/") or "\0" in name or _META.match(name):
        return None
    match = _NAME.match(name)
    return (match.group(1), match.group(2).lower()) if match else None


def members(window: Window) -> Iterator[Member | None]:
    """The plain files of an archive in order; a None at the end says that it was closed properly.

    Raises:
        TarError: a header is broken, or the archive ends inside a member.
    """
    offset = start = 0
    long_name: str | None = None
    pax: dict[str, str] = {}
    while offset < window.size:
        block = window.read(offset, BLOCK)
        if len(block) < BLOCK:
            raise TarError("it ends inside a header", offset)
        header = parse_header(block, offset)
        if header is None:
            yield None
            return
        size = header.size
        if header.kind not in b"LKxg":
            size = _pax_size(pax, size, offset) if header.has_data else 0
        data = _past_map(window, block, offset) if header.kind == b"S" else offset + BLOCK
        if data + padded(size) > window.size:
            raise TarError(f"{size} bytes of {header.name[:100]!r} should follow, the file ends before", offset)
        if header.kind in b"LKxg":
            if size > _LONGEST_NAME:
                raise TarError(f"a name of {size} bytes", offset)
            if header.kind == b"L":
                long_name = window.read(data, size).split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            elif header.kind == b"x":
                pax = parse_pax(window.read(data, size), offset)
            offset = data + padded(size)
            continue
        if _is_plain(header, pax):
            name = pax.get("path", long_name if long_name is not None else header.name)
            yield Member(name, start, data, size)
        long_name, pax = None, {}
        offset = start = data + padded(size)


def _past_map(window: Window, block: bytes, offset: int) -> int:
    """Where the data of a sparse file of GNU's old form begin: behind blocks of its map that no size counts."""
    place, flag = offset + BLOCK, 482
    while block[flag]:
        block, flag = window.read(place, BLOCK), 504
        if len(block) < BLOCK:
            raise TarError("it ends inside the map of a sparse file", offset)
        place += BLOCK
    return place


def _pax_size(pax: dict[str, str], size: int, offset: int) -> int:
    text = pax.get("size", str(size))
    if not text.isascii() or not text.isdigit():
        raise TarError(f"a size of {text[:40]!r}", offset)
    return int(text)


def _is_plain(header: Header, pax: dict[str, str]) -> bool:
    """Plain files only: no folders, links, devices, and no sparse files, whose data are not what they seem."""
    return header.kind in (b"0", b"\0", b"7") and not any(key.startswith("GNU.sparse.") for key in pax)


def scan_shard(url: str) -> ShardScan:
    """Find the rows of a shard by walking over its headers.

    Raises:
        BadShard: the archive is truncated, broken or compressed.
        lumiray.storage.NotThere, NoAccess, Unreachable: as storage says.
    """
    with window_of(url) as window:
        return scan_window(window, url)


def scan_window(window: Window, url: str, row_found: Callable[[int, int], None] | None = None) -> ShardScan:
    """As `scan_shard`, over bytes that are already at hand, or that come in from left to right.

    Args:
        url: for messages.
        row_found: called with first byte and length of each row, as soon as its end is known.
    """
    starts: list[int] = []
    ends: list[int] = []
    keys: list[str] = []
    extensions: Counter[str] = Counter()
    seen: set[str] = set()
    duplicates: list[str] = []
    key: str | None = None
    parts: set[str] = set()
    ended = False
    try:
        _refuse_compressed(window)
        for member in members(window):
            if member is None:
                ended = True
                break
            named = split_name(member.name)
            if named is None:
                continue
            if named[0] != key or named[1] in parts:
                if row_found is not None and starts:
                    row_found(starts[-1], ends[-1] - starts[-1])
                key, parts = named[0], set()
                starts.append(member.start)
                ends.append(member.end)
                keys.append(key)
                if key in seen and len(duplicates) < 100:
                    duplicates.append(key)
                seen.add(key)
            parts.add(named[1])
            extensions[named[1]] += 1
            ends[-1] = member.end
        if row_found is not None and starts:
            row_found(starts[-1], ends[-1] - starts[-1])
    except TarError as error:
        raise BadShard(
            f"Shard {without_secrets(url)} cannot be read past byte {error.offset}: {error}. "
            "Fetch or write it again, or leave it out of --shards."
        ) from None
    offsets = np.array(starts, dtype=np.int64)
    lengths = np.array(ends, dtype=np.int64) - offsets
    return ShardScan(offsets, lengths, tuple(keys), dict(extensions), tuple(duplicates), ended)


def _refuse_compressed(window: Window) -> None:
    start = window.read(0, min(6, window.size))
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        raise TarError("it is compressed, and single rows of it cannot be reached; unpack it to a plain .tar", 0)


def read_row(data: bytes, identity: int) -> Row:
    """The row that lies in these bytes, from its first header to the end of its last member.

    Args:
        identity: ordinal of the row, passed on.

    Raises:
        BadRow: the bytes are not one whole row: the shard was changed since it was indexed.
    """
    key: str | None = None
    parts: dict[str, bytes] = {}
    try:
        for member in members(Window.over(data)):
            named = None if member is None else split_name(member.name)
            if member is None or named is None:
                continue
            if key is None:
                key = named[0]
            if named[0] != key or named[1] in parts:
                raise BadRow(f"key {key!r} is followed by {named[0]!r} where one row should be")
            parts[named[1]] = data[member.data : member.data + member.size]
    except TarError as error:
        raise BadRow(f"broken archive at byte {error.offset} of the row: {error}") from None
    if key is None:
        raise BadRow("no member of a row where one should be")
    return Row(key, parts, identity)
