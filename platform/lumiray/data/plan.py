"""Which row comes at which position: a pure function of sizes and seed, without state and without Ray.

Every row comes exactly once per epoch, a checkpoint stores one number, and the order knows nothing of workers:
so a run continues anywhere, on any number of them, with the same global batches (DESIGN, "The plan").

    order = Order(rows, seed=0, slice_rows=16, group_rows=4096)
    order.rows_at(epoch, start, stop)                  ordinals of rows at positions [start, stop) of an epoch
    plan = Plan([Source("photos", rows)], PlanSettings(), 32768, 64, seed=0)
    plan.micro_batch(step, index)                      what one forward reads
    plan.micro_batches_of(rank, world)                 which ones a rank runs

An ordinal is a row's number in its source, all shards concatenated; `index.ShardSet.locate` gives shard and row.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from lumiray.data.buckets import Buckets
from lumiray.data.mixture import Mixture
from lumiray.data.permute import key_of, permute, permute_in_groups
from lumiray.data.shard_order import ShardOrder
from lumiray.errors import UserError


@dataclass(frozen=True)
class Source:
    """One set of shards in a run.

    Args:
        name: stands in seeds and logs; another name is another order.
        rows: rows that training sees, at least 1.
        weight: share of rows in the mixture, relative to the other sources, above 0.
        rows_per_shard: int64, shape (shards,), sum `rows`; needed where whole shards are read.
    """

    name: str
    rows: int
    weight: float = 1.0
    rows_per_shard: np.ndarray | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class PlanSettings:
    """How well an epoch is shuffled and what that costs (both are part of a run's identity).

    Args:
        slice_rows: neighbouring rows of a shard that are read together.
        group_rows: rows shuffled among each other after whole slices were shuffled; a multiple of `slice_rows`.
        read: what is shuffled over the epoch and read as one: slices (`Order`), or whole shards (`ShardOrder`, which
            has no slices).
    """

    slice_rows: int = 16
    group_rows: int = 4096
    read: Literal["slice", "shard"] = "slice"


@dataclass(frozen=True)
class Order:
    """The order of one source's rows, epoch by epoch.

    Rows are cut into slices, the slices permuted, gathered into groups, the rows of a group permuted.  Only the
    last slice of the source can be short; it is pinned to the end of the last group, so that all slices before
    it have equal length and position -> row has a closed form.

    Args:
        rows: rows of the source, at least 1.
        seed: 64-bit seed of this source's order.
        slice_rows, group_rows: as in `PlanSettings`.

    Raises:
        UserError: a size is below 1, or a group is not a whole number of slices.
    """

    rows: int
    seed: int
    slice_rows: int = 16
    group_rows: int = 4096

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise UserError("There are no rows to train on: the shards are empty, or a filter left nothing.")
        if self.slice_rows < 1 or self.group_rows < 1 or self.group_rows % self.slice_rows:
            raise UserError(
                f"A group of {self.group_rows} rows is not a whole number of slices of {self.slice_rows} rows; "
                "make --data.group-rows a multiple of --data.slice-rows, both at least 1."
            )

    def rows_at(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """Ordinals of the rows at positions [start, stop) of an epoch.

        Returns:
            int64, shape (stop - start,), values in [0, rows).

        Raises:
            ValueError: the range leaves [0, rows].
        """
        if not 0 <= start <= stop <= self.rows:
            raise ValueError(f"positions [{start}, {stop}) are not within an epoch of {self.rows} rows")
        positions = np.arange(start, stop, dtype=np.int64)
        shuffled = permute_in_groups(positions, self.rows, self.group_rows, key_of("group", self.seed, epoch))
        places = shuffled // self.slice_rows
        rows: np.ndarray = self._slices(places, epoch) * self.slice_rows + (shuffled - places * self.slice_rows)
        return rows

    def _slices(self, places: np.ndarray, epoch: int) -> np.ndarray:
        """The slice at each place of the epoch's order of slices; the short one stays last."""
        whole = self.rows // self.slice_rows
        key = key_of("slice", self.seed, epoch)
        if not len(places) or whole == 0:
            return places
        low, high = int(places.min()), min(int(places.max()) + 1, whole)
        if high - low < len(places):  # many rows per slice: permute each slice once, then look up
            table = np.concatenate([permute(np.arange(low, high), whole, key), [whole]])
            return table[np.minimum(places, whole) - low] if low < whole else places
        slices = places.copy()
        inside = places < whole
        slices[inside] = permute(places[inside], whole, key)
        return slices


@dataclass(frozen=True)
class Planned:
    """What one micro-batch reads; four arrays of shape (micro_batch_size,).

    Args:
        source: number of the source, int32.
        epoch: the source's own epoch, int64.
        row: ordinal within the source, int64.
        position: position in the run, int64, `(step * K + index) * micro_batch_size + place`.
    """

    source: np.ndarray
    epoch: np.ndarray
    row: np.ndarray
    position: np.ndarray

    def __len__(self) -> int:
        return len(self.row)


class Plan:
    """The rows of every micro-batch of a run.

    Args:
        sources: at least one; several are mixed by their weights, each going through its own epochs.
        settings: slices or shards, and groups.
        global_batch_size: rows per optimizer step, a multiple of `micro_batch_size`.
        micro_batch_size: rows per forward.
        seed: the run's seed.

    Raises:
        UserError: sizes do not fit, no sources, two sources of one name, a weight that is not above 0.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        settings: PlanSettings,
        global_batch_size: int,
        micro_batch_size: int,
        seed: int,
    ) -> None:
        if micro_batch_size < 1 or global_batch_size < 1 or global_batch_size % micro_batch_size:
            raise UserError(
                f"The global batch of {global_batch_size} rows is not a whole number of micro-batches of "
                f"{micro_batch_size} rows; change --global-batch-size or --micro-batch-size."
            )
        names = [source.name for source in sources]
        if not names or len(set(names)) < len(names):
            raise UserError(f"A run needs one or more sources with different names, not {names}.")
        self.sources = tuple(sources)
        self.settings = settings
        self.global_batch_size = global_batch_size
        self.micro_batch_size = micro_batch_size
        self.seed = seed
        self.mixture = Mixture(tuple(source.weight for source in sources))
        self.orders = tuple(_order(source, settings, key_of("order", seed, source.name)) for source in sources)
        self.buckets: Buckets | None = None
        self._window: tuple[int, Planned] | None = None  # first step and rows of the window that was asked for last

    def bucketed(self, buckets: Buckets) -> Plan:
        """The same rows in the same windows of steps, those of like shapes in one micro-batch."""
        plan = copy.copy(self)
        plan.buckets, plan._window = buckets, None
        return plan

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches per global batch, K."""
        return self.global_batch_size // self.micro_batch_size

    def micro_batch(self, step: int, index: int) -> Planned:
        """The rows of micro-batch `index` of optimizer step `step`, both from 0.

        Raises:
            ValueError: `step` is negative or `index` is not in [0, K).
        """
        return self.batch(step, range(index, index + 1))

    def batch(self, step: int, micro_batches: range | None = None) -> Planned:
        """Micro-batches of a step, one behind the other; much faster than one call for each.

        Args:
            micro_batches: neighbouring ones (`micro_batches_of` a rank), or None for the whole global batch.

        Returns:
            arrays of shape (len(micro_batches) * micro_batch_size,).
        """
        which = range(self.num_micro_batches) if micro_batches is None else micro_batches
        if step < 0 or which.step != 1 or which.start < 0 or which.stop > self.num_micro_batches:
            raise ValueError(f"there are no micro-batches {which} in step {step}")
        if self.buckets is not None:
            return self._from_window(self.buckets, step, which)
        first = step * self.num_micro_batches + which.start
        return self._micro_batches(first, first + len(which))

    def micro_batches_of(self, rank: int, world: int) -> range:
        """The micro-batches that a rank runs in every step.

        Raises:
            ValueError: `world` does not divide K (`fitting_world` gives one that does).
        """
        if self.num_micro_batches % world or not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world} cannot share {self.num_micro_batches} micro-batches")
        share = self.num_micro_batches // world
        return range(rank * share, (rank + 1) * share)

    def fitting_world(self, workers: int) -> int:
        """The largest number of ranks, at most `workers`, that divides K."""
        return max(w for w in range(1, min(workers, self.num_micro_batches) + 1) if self.num_micro_batches % w == 0)

    def steps_for(self, epochs: float, source: str) -> int:
        """Optimizer steps until a source has been passed `epochs` times; the last batch may run past it.

        Args:
            epochs: passes, above 0, may be a fraction.
            source: name of the source that counts.

        Raises:
            ValueError: there is no such source.
        """
        number = [each.name for each in self.sources].index(source)
        rows = math.ceil(Fraction(str(epochs)) * self.sources[number].rows)  # 1.1 * 10 are 11, not a little more
        return max(1, math.ceil(self.mixture.first_position(number, rows) / self.global_batch_size))

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass over the first source (over all rows where there is only one source)."""
        return self.steps_for(1, self.sources[0].name)

    def _from_window(self, buckets: Buckets, step: int, which: range) -> Planned:
        """Micro-batches of a step as its window arranges them; places stay what they are, rows change them."""
        first, last = buckets.window_of(step)
        held = self._window  # another thread may put another one there
        if held is None or held[0] != first:
            count, size = self.num_micro_batches, self.micro_batch_size
            whole = self._micro_batches(first * count, last * count)
            taken = buckets.arranged(first, whole.source, whole.row, size)
            held = first, Planned(whole.source, whole.epoch[taken], whole.row[taken], whole.position)
            self._window = held
        low = (step - first) * self.global_batch_size + which.start * self.micro_batch_size
        cut = slice(low, low + len(which) * self.micro_batch_size)
        rows = held[1]
        return Planned(rows.source[cut], rows.epoch[cut], rows.row[cut], rows.position[cut])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_window": None}

    def _micro_batches(self, first: int, last: int) -> Planned:
        """Micro-batches [first, last) of the run; inside each, rows lie source by source."""
        size = self.micro_batch_size
        edges = np.array([self.mixture.counts(number * size) for number in range(first, last + 1)])
        quotas = np.diff(edges, axis=0)  # (micro-batches, sources)
        source = np.repeat(np.tile(np.arange(len(self.sources), dtype=np.int32), last - first), quotas.ravel())
        epoch, row = np.empty(len(source), np.int64), np.empty(len(source), np.int64)
        for number in range(len(self.sources)):
            mine = slice(None) if len(self.sources) == 1 else source == number
            epoch[mine], row[mine] = self._stream(number, int(edges[0, number]), int(edges[-1, number]))
        return Planned(source, epoch, row, np.arange(first * size, last * size, dtype=np.int64))

    def _stream(self, number: int, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Epochs and ordinals of rows [begin, end) that a source has given since the run began."""
        rows = self.sources[number].rows
        epochs, ordinals = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        while begin < end:
            epoch, offset = divmod(begin, rows)
            length = min(end - begin, rows - offset)
            epochs.append(np.full(length, epoch, np.int64))
            ordinals.append(self.orders[number].rows_at(epoch, offset, offset + length))
            begin += length
        return np.concatenate(epochs), np.concatenate(ordinals)


def _order(source: Source, settings: PlanSettings, seed: int) -> Order | ShardOrder:
    if settings.read == "slice":
        return Order(source.rows, seed, settings.slice_rows, settings.group_rows)
    if source.rows_per_shard is None or int(source.rows_per_shard.sum()) != source.rows:
        raise ValueError(f"the shards of {source.name} do not have {source.rows} rows together")
    return ShardOrder(source.rows_per_shard, seed, settings.group_rows)


def evaluation_batches(rows: int, micro_batch_size: int, num_ranks: int) -> np.ndarray:
    """Rows for evaluation: every row once, in order, the tail padded with -1 (mask: `batches >= 0`).

    Returns:
        int64, shape (num_ranks, batches per rank, micro_batch_size); rank after rank gives the rows in order.
    """
    if rows < 1 or micro_batch_size < 1 or num_ranks < 1:
        raise ValueError(f"cannot cut {rows} rows into batches of {micro_batch_size} for {num_ranks} ranks")
    per_rank = math.ceil(rows / (micro_batch_size * num_ranks))
    padded = np.full(num_ranks * per_rank * micro_batch_size, -1, dtype=np.int64)
    padded[:rows] = np.arange(rows)
    return padded.reshape(num_ranks, per_rank, micro_batch_size)
