"""Shards that are read whole: each is taken once by one process of a host, and all of them cut their rows from it.

A shard on a disk is there already: its headers are walked over once, and what was read of it stays in the memory of
the host's operating system.  A shard on S3 is fetched from its first byte to its last by a few large requests at a
time.  Its headers are read as it comes in, and what lies between them goes to the host's cache slice by slice, as if
slices had been asked for (`fetch_rows`), so memory is bounded by two of them and a request's answers, and limit, checks
and sweeping of the cache hold as they are.  Where rows begin is kept in the index: nobody on the host walks over the
shard again.

Processes of a host take turns at a shard by a lock on it, which ends with its process.  A slice that the cache has lost
since is asked for by itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from lumiray import storage
from lumiray.data.catalog import Catalog, Rows
from lumiray.data.fetch import Window
from lumiray.data.fetch_rows import LONGEST_SLICE, SLICE_ROWS, Shard, Span, in_any_turn
from lumiray.data.listing import refuse_changed
from lumiray.data.slice_cache import SliceCache, name_of, one_at_a_time
from lumiray.data.tar import scan_shard, scan_window

REQUEST_BYTES = 16 << 20
_AT_ONCE = 4  # requests of one shard


def num_requests(shard: Shard) -> int:
    """Requests by which a shard is taken."""
    return -(-shard.size // REQUEST_BYTES) if storage.is_s3(shard.url) else 1


def rows_of(shard: Shard, catalog: Catalog, cache: SliceCache | None) -> Rows:
    """Where the rows of a shard are; it is taken if that is not known yet.

    Raises:
        UserError: it cannot be read to its end, or has changed since it was listed.
    """
    listed = shard.listed
    if not storage.is_s3(shard.url):
        _read_ahead(storage.local_path(shard.url))
    rows = catalog.indexed_rows(listed)
    if rows is not None:
        return rows
    with _turn(shard, cache):
        rows = catalog.indexed_rows(listed)  # of the process that had the turn before
        if rows is None:
            rows = _taken(shard, cache)
            catalog.keep_rows(listed, rows)
    return rows


def bring(spans: Sequence[Span], cache: SliceCache) -> None:
    """Take those shards on S3 of which no slice that is wanted is in the cache.

    Raises:
        UserError: as `rows_of`.
    """
    wanted: dict[int, list[Span]] = {}
    for span in spans:
        if span.name is not None:
            wanted.setdefault(span.shard.number, []).append(span)
    for own in in_any_turn(list(wanted.values())):
        if not cache.can_take(own[0].shard.size) or _some_here(own, cache):
            continue
        with _turn(own[0].shard, cache):
            if not _some_here(own, cache):
                _taken(own[0].shard, cache)


def _some_here(spans: Sequence[Span], cache: SliceCache) -> bool:
    return any(cache.has(str(span.name)) for span in spans)


def _turn(shard: Shard, cache: SliceCache | None) -> AbstractContextManager[None]:
    if not storage.is_s3(shard.url):
        return one_at_a_time(storage.local_path(shard.url))
    return nullcontext() if cache is None else cache.turn(name_of(shard.url, shard.size, shard.mark, 0, shard.size))


def _taken(shard: Shard, cache: SliceCache | None) -> Rows:
    """Walk over a shard; what is on S3 and fits goes into the cache."""
    if storage.is_s3(shard.url) and cache is not None and cache.can_take(shard.size):
        intake = _Intake(shard, cache)
        scan = scan_window(Window(shard.size, intake.read), shard.url, intake.row_found)
        intake.close()
    else:
        scan = scan_shard(shard.url)
        refuse_changed(shard.listed)
    return Rows(scan.row_offsets, scan.row_lengths)


def _read_ahead(path: str) -> None:
    """Have a file read from beginning to end into the operating system's cache, as far as there is room."""
    if not hasattr(os, "posix_fadvise"):
        return
    with storage.clear_errors(path, "read"):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(handle)


class _Intake:
    """A shard as it comes in from S3, read from left to right and kept slice by slice.

    What lies before the slice that is under way is forgotten.  A slice that is too long for the cache is not held
    together, and members that are longer still are jumped over without being fetched.
    """

    def __init__(self, shard: Shard, cache: SliceCache) -> None:
        self._shard, self._cache = shard, cache
        self._start, self._held = 0, b""
        self._low = 0  # first byte that may still be wanted
        self._first, self._end, self._rows = 0, 0, 0  # of the slice under way

    def read(self, offset: int, length: int) -> bytes:
        """As `Window.read`, where `offset` never goes back by more than the slice under way."""
        length = max(0, min(length, self._shard.size - offset))
        if offset + length > self._start + len(self._held):
            self._fetch(offset, offset + length)
        return self._held[offset - self._start : offset - self._start + length]

    def row_found(self, start: int, length: int) -> None:
        """A row came to its end."""
        if not self._rows:
            self._first = start
        self._rows, self._end = self._rows + 1, start + length
        if self._rows == SLICE_ROWS:
            self.close()

    def close(self) -> None:
        """Keep the slice under way."""
        if self._rows and self._first >= self._low and self._end - self._first <= LONGEST_SLICE:
            data = self.read(self._first, self._end - self._first)
            shard = self._shard
            self._cache.keep(name_of(shard.url, shard.size, shard.mark, self._first, self._end), data)
        self._rows, self._low = 0, self._end

    def _fetch(self, offset: int, stop: int) -> None:
        """Hold what may still be wanted up to `stop`, and some bytes further on."""
        if stop - self._low > LONGEST_SLICE + REQUEST_BYTES:
            self._low = offset
        low, fetched = min(offset, self._low), self._start + len(self._held)
        held = self._held[low - self._start :] if low < fetched else b""
        begin = max(low, fetched)
        upto = min(self._shard.size, max(stop, begin + _AT_ONCE * REQUEST_BYTES))
        wanted = [(self._shard.url, at, min(REQUEST_BYTES, upto - at)) for at in range(begin, upto, REQUEST_BYTES)]
        self._held, self._start = b"".join([held, *storage.s3_ranges(wanted)]), low
        refuse_changed(self._shard.listed)  # before anything of it is kept: what came is of the shard that was listed
