"""What a run asks of its storage and of the cores that decode, measured on a few of its rows.

Opening shards the first time means reading them all, which a run does on the whole cluster.  Without one, shards
that have no index yet are sampled: a few are read, and stand for the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from lumiray.data.decoder import Decoder
from lumiray.data.entries import TRAIN, Entry, StreamSpec, entries, planned_rows, rank_rows, reads
from lumiray.data.filter import Filter
from lumiray.data.index import ShardSet
from lumiray.data.listing import Listed
from lumiray.data.slice_cache import SliceCache
from lumiray.system import BadRow, Row

READ_WHOLE = 4 << 30  # bytes of shards without an index that are read here
SAMPLED = 3  # shards that stand for the others where there are more
TIMED_ROWS = 64
COUNTED_READS = 8  # of the first rank, spread over the run


@dataclass(frozen=True)
class Reading:
    """What the rows of a run ask for.

    Args:
        rows_per_s: decoded and augmented on one core of this machine.
        requests_per_row: range reads, after neighbours are joined.
        arrays: shape of one row's share and dtype of every array of a batch.
        row_bytes: of one decoded row.
    """

    rows_per_s: float
    requests_per_row: float
    arrays: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]

    @property
    def row_bytes(self) -> int:
        """Bytes of one decoded row."""
        return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in self.arrays.values())


class SampledShards(ShardSet):
    """Some shards in the place of many: the many's counts, the rows of the few over and over."""

    def __init__(self, few: ShardSet, listed: list[Listed]) -> None:
        self.__dict__.update(few.__dict__)  # all that the few know
        self._shards, self._own = len(listed), few.num_rows
        share = sum(one.size for one in listed) / int(few.sizes.sum())
        self._rows, self._stored = round(few.num_rows * share), round(few.num_stored * share)

    def __len__(self) -> int:
        """Number of shards, the ones that were not read included."""
        return self._shards

    @property
    def num_rows(self) -> int:
        """Rows of all shards, as their sizes let expect."""
        return self._rows

    @property
    def counts(self) -> np.ndarray:
        """Rows of each shard, all of one size."""
        edges = np.linspace(0, self._rows, self._shards + 1).astype(np.int64)
        return np.diff(edges)

    @property
    def num_stored(self) -> int:
        """As `num_rows`, with those that a filter leaves out."""
        return self._stored

    def locate(self, ordinals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `ShardSet.locate`; neighbours stay neighbours."""
        return super().locate(np.asarray(ordinals) % self._own)

    def read(self, ordinals: np.ndarray, anew: bool = False) -> list[Row | BadRow]:
        """As `ShardSet.read`."""
        return super().read(np.asarray(ordinals) % self._own, anew)

    def shapes(self, scan_map: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]] = map) -> np.ndarray:
        """As `ShardSet.shapes`."""
        return super().shapes(scan_map)[np.arange(self._rows) % self._own]

    def num_requests(self, ordinals: np.ndarray) -> float:
        """As `ShardSet.num_requests`."""
        return super().num_requests(np.asarray(ordinals) % self._own)


class _TooMuch(Exception):
    """Shards without an index are too many to be read here."""


def open_here(
    listed: list[Listed],
    index_folder: str | None = None,
    keep: Filter | None = None,
    cache: SliceCache | None = None,
    whole: bool = False,
) -> ShardSet:
    """Shards that `listing.find` gave, without a cluster; a sample where they would take too long to index.

    Args:
        keep, cache, whole: as `ShardSet.open` has them.

    Raises:
        UserError: as `ShardSet.open`.
    """
    with ThreadPoolExecutor(16) as pool:

        def scan(function: Callable[[Any], Any], shards: Iterable[Any]) -> Iterator[Any]:
            waiting = list(shards)
            if sum(one.size for one in waiting) > READ_WHOLE and len(waiting) > SAMPLED:
                raise _TooMuch
            return pool.map(function, waiting)

        try:
            return ShardSet.open(listed, index_folder, scan_map=scan, keep=keep, cache=cache, whole=whole)
        except _TooMuch:
            few = [listed[place] for place in np.linspace(0, len(listed) - 1, SAMPLED).astype(int)]
            print(
                f"note: the shards have no index yet, which the run will make; {SAMPLED} of {len(listed)} shards were "
                "read for the figures below",
                flush=True,
            )
            opened = ShardSet.open(few, index_folder, scan_map=pool.map, keep=keep, cache=cache, whole=whole)
            return SampledShards(opened, listed)


def measure_reading(stream: StreamSpec, ranks: int) -> Reading:
    """Decode rows of the first step here, and count the range reads of some entries that are read together.

    Raises:
        RunFailure: the rows cannot be used.
    """
    decoder = Decoder(stream)
    low, high = rank_rows(stream.plan, 0, ranks)
    [*decoder.blocks([Entry(TRAIN, 0, low, low + 1)])]  # tokenizer and tables are made once per process
    upto = min(high, low + TIMED_ROWS)
    begin = time.process_time()
    (block,) = decoder.blocks([Entry(TRAIN, 0, low, upto)])
    took = time.process_time() - begin
    asked, rows = 0.0, 0
    for step in np.unique(np.linspace(0, stream.total_steps - 1, COUNTED_READS).astype(int)).tolist():
        together = [planned_rows(stream.plan, one) for one in next(reads(entries(stream, 0, ranks, step)))]
        source, row = (np.concatenate([getattr(one, name) for one in together]) for name in ("source", "row"))
        rows += len(row)
        asked += sum(shards.num_requests(row[source == number]) for number, shards in enumerate(stream.sources))
    shapes = {name: (value.shape[1:], value.dtype) for name, value in block.arrays.items()}
    return Reading((upto - low) / max(took, 1e-9), asked / rows, shapes)
