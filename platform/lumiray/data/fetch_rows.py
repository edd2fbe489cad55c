"""Which ranges of bytes rows are read by, and how these are fetched.

Rows of a shard that lie near each other are one range (`near`).  With a cache, shards on S3 are read in *slices*
instead (`slices`): stored rows [16 k, 16 (k + 1)), whichever of them are wanted, by one request.  Slices are the same
in every epoch, in every process and with every filter, and rows that are shuffled among each other want a slice
again within a few steps: it then comes from the disk of the host.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lumiray import storage
from lumiray.data.catalog import Rows
from lumiray.data.listing import Listed
from lumiray.data.slice_cache import SliceCache, name_of
from lumiray.data.tar import MAX_ROW_BYTES

SLICE_ROWS = 16
LONGEST_SLICE = 64 << 20
_GAP, _GAP_S3 = 32 << 10, 256 << 10  # bytes that are read along rather than asked for around, with a second request
_LONGEST_READ = 16 << 20
_PORTION, _PORTION_BYTES = 64, 128 << 20  # slices that are fetched and in memory at once
_T = TypeVar("_T")


@dataclass(frozen=True)
class Shard:
    """A shard as `ShardSet` numbers it; size and mark as in `listing.Listed`."""

    number: int
    url: str
    size: int
    mark: str

    @property
    def listed(self) -> Listed:
        """The same without its number."""
        return Listed(self.url, self.size, self.mark)


@dataclass
class Span:
    """Bytes [start, stop) of a shard, and the (ordinal, start, length) of rows inside them.

    Args:
        name: of a slice, in the cache; None for other ranges.
    """

    shard: Shard
    start: int
    stop: int
    rows: list[tuple[int, int, int]]
    name: str | None = None

    @property
    def length(self) -> int:
        """Bytes."""
        return self.stop - self.start


def slice_bounds(rows: Rows) -> np.ndarray:
    """First byte of each slice of a shard, and the one after its last; int64, shape (slices, 2).

    Args:
        rows: all rows that are stored.
    """
    count = len(rows.offsets)
    last = np.minimum(np.arange(SLICE_ROWS - 1, count + SLICE_ROWS - 1, SLICE_ROWS), count - 1)
    return np.stack([rows.offsets[::SLICE_ROWS], rows.offsets[last] + rows.lengths[last]], axis=1)


def near(shard: Shard, rows: Rows, wanted: np.ndarray, ordinals: np.ndarray) -> list[Span]:
    """Rows of one shard joined into ranges that are worth one read each.

    Args:
        wanted: places in `rows`, ascending, int64 (n,).
        ordinals: of these rows, int64 (n,).
    """
    gap = _GAP_S3 if storage.is_s3(shard.url) else _GAP
    spans: list[Span] = []
    for row, ordinal in zip(wanted.tolist(), ordinals.tolist(), strict=True):
        start, length = int(rows.offsets[row]), int(rows.lengths[row])
        read = length if length <= MAX_ROW_BYTES else 0
        last = spans[-1] if spans else None
        if last is not None and start - last.stop <= gap and start + read - last.start <= _LONGEST_READ:
            last.stop = max(last.stop, start + read)
            last.rows.append((ordinal, start, length))
        else:
            spans.append(Span(shard, start, start + read, [(ordinal, start, length)]))
    return spans


def slices(shard: Shard, rows: Rows, wanted: np.ndarray, ordinals: np.ndarray) -> list[Span]:
    """As `near`, by whole slices; rows of a slice that is too long for a cache are read as without one."""
    assert rows.slices is not None
    stored = wanted if rows.numbers is None else rows.numbers[wanted]
    numbers = stored // SLICE_ROWS
    spans: list[Span] = []
    for here in np.split(np.arange(len(wanted)), np.flatnonzero(np.diff(numbers)) + 1):
        start, stop = rows.slices[numbers[here[0]]].tolist()
        if stop - start > LONGEST_SLICE:
            spans.extend(near(shard, rows, wanted[here], ordinals[here]))
            continue
        columns = (ordinals[here], rows.offsets[wanted[here]], rows.lengths[wanted[here]])
        inside = list(zip(*(column.tolist() for column in columns), strict=True))
        spans.append(Span(shard, start, stop, inside, name_of(shard.url, shard.size, shard.mark, start, stop)))
    return spans


def fetched(spans: Sequence[Span], cache: SliceCache | None, anew: bool) -> Iterator[tuple[Span, bytes, bool]]:
    """Each span with its bytes, in any order; True for a slice that is to be kept.

    Args:
        cache: where slices may be.
        anew: nothing is taken from there.
    """
    plain = [span for span in spans if span.name is None]
    for span, data in zip(plain, _from_store(plain), strict=True):
        yield span, data, False
    named = [span for span in spans if span.name is not None]
    missing: list[Span] = []
    for span in in_any_turn(named):
        known = None if anew or cache is None else cache.read(str(span.name), span.length)
        if known is not None:
            yield span, known, False
            continue
        missing.append(span)
        if len(missing) == _PORTION or sum(one.length for one in missing) > _PORTION_BYTES:
            yield from _new(missing)
            missing = []
    yield from _new(missing)


def in_any_turn(things: Sequence[_T]) -> list[_T]:
    """The same, from any place on and then round.

    The processes of a host come to a group's slices and shards at about the same time: beginning at different ones,
    each fetches a part of them and finds the others on the disk.
    """
    begin = random.randrange(len(things)) if things else 0
    return [*things[begin:], *things[:begin]]


def _new(missing: list[Span]) -> Iterator[tuple[Span, bytes, bool]]:
    for span, data in zip(missing, _from_store(missing), strict=True):
        yield span, data, True


def _from_store(spans: Sequence[Span]) -> list[bytes]:
    """Bytes of each span, those of all shards on S3 together."""
    if spans and storage.is_s3(spans[0].shard.url):
        return storage.s3_ranges([(span.shard.url, span.start, span.length) for span in spans])
    pieces: list[bytes] = []
    at = 0
    while at < len(spans):  # spans of one shard are neighbours: it is opened once
        upto = at + 1
        while upto < len(spans) and spans[upto].shard == spans[at].shard:
            upto += 1
        ranges = [(span.start, span.length) for span in spans[at:upto]]
        pieces.extend(storage.read_ranges(spans[at].shard.url, ranges))
        at = upto
    return pieces
