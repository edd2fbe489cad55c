"""The order of rows that are read by whole shards: a pure function of rows per shard, seed and epoch.

Shards are permuted anew in every epoch, their rows laid end to end and cut into groups, the rows of a group permuted.
A group is then rows of a few shards that follow each other, which a host takes once and whole: no offsets are needed
to make the plan, and the store is asked for large pieces only.  It shuffles less than an order of slices (`plan`):
neighbours of a shard land in one group, or in two that follow each other.

    order = ShardOrder(rows_per_shard, seed=0, group_rows=4096)
    order.rows_at(epoch, start, stop)                  ordinals of rows at positions [start, stop) of an epoch
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from lumiray.data.permute import key_of, permute, permute_in_groups
from lumiray.errors import UserError

_EPOCHS = 2  # whose order of shards is remembered: a batch may lie on the border of two


class ShardOrder:
    """The order of one source's rows, epoch by epoch.

    Args:
        rows_per_shard: int64, shape (shards,), at least 0 each; of those that training sees.
        seed: 64-bit seed of this source's order.
        group_rows: rows shuffled among each other, at least 1.

    Raises:
        UserError: there are no rows, or a group is below one row.
    """

    def __init__(self, rows_per_shard: np.ndarray, seed: int, group_rows: int = 4096) -> None:
        self.rows_per_shard = np.asarray(rows_per_shard, dtype=np.int64)
        self.rows = int(self.rows_per_shard.sum())
        self.seed, self.group_rows = seed, group_rows
        self._known: tuple[tuple[int, np.ndarray, np.ndarray], ...] = ()
        if self.rows < 1:
            raise UserError("There are no rows to train on: the shards are empty, or a filter left nothing.")
        if group_rows < 1:
            raise UserError(f"--data.group-rows is {group_rows}; it must be at least 1.")

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
        places = permute_in_groups(positions, self.rows, self.group_rows, key_of("group", self.seed, epoch))
        shards, ends = self._shards(epoch)
        turns = np.searchsorted(ends, places, side="right")  # steps over shards without rows
        found = shards[turns]
        rows: np.ndarray = self._starts[found] + places - (ends[turns] - self.rows_per_shard[found])
        return rows

    def near(self, epoch: int, row: int) -> tuple[int, int]:
        """Positions [start, stop) of a row's group in an epoch and of the group before it.

        Their shards are at hand when the row is read: what takes a row's place comes from among them.
        """
        shard = int(np.searchsorted(self._starts, row, side="right")) - 1
        shards, ends = self._shards(epoch)
        turn = int(np.flatnonzero(shards == shard)[0])
        place = int(ends[turn] - self.rows_per_shard[shard] + row - self._starts[shard])
        group = place // self.group_rows
        return max(0, group - 1) * self.group_rows, min(self.rows, (group + 1) * self.group_rows)

    def _shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Shards in the order of an epoch, and how many rows have come when each is through."""
        for known, shards, ends in self._known:
            if known == epoch:
                return shards, ends
        count = len(self.rows_per_shard)
        shards = permute(np.arange(count), count, key_of("shard", self.seed, epoch))
        ends = np.cumsum(self.rows_per_shard[shards])
        # replaced as one, for two threads of a decoder may ask
        self._known = (*self._known[-(_EPOCHS - 1) :], (epoch, shards, ends))
        return shards, ends

    @cached_property
    def _starts(self) -> np.ndarray:
        """Ordinal of each shard's first row."""
        starts: np.ndarray = np.cumsum(self.rows_per_shard) - self.rows_per_shard
        return starts

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("_starts", None)
        return state | {"_known": ()}
