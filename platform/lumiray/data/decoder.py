"""Entries -> blocks of arrays: rows are read, decoded, augmented, and replaced where they cannot be used.

A row is bad when it failed twice: a bad read is read again, and a row that ends its process is tried twice more, by
itself, each time in a new one (`alone.py`).  In training its place is taken by another row of the same source,
which (seed, epoch, position, attempt) decide alone; in evaluation it is masked.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lumiray.data.entries import EVALUATE, Entry, StreamSpec, planned_rows
from lumiray.data.index import ShardSet
from lumiray.data.plan import Planned
from lumiray.data.randomness import row_generator
from lumiray.data.shard_order import ShardOrder
from lumiray.errors import RunFailure
from lumiray.registry import system as make_system
from lumiray.system import BadRow, Row, stage_named

ATTEMPTS = 8  # substitutes tried for a bad row before the block gives up
SEARCHED = 1000  # rows looked at for one that can stand where evaluation masks


@dataclass(frozen=True)
class Draw:
    """One row as it is wanted: what decides its random choices, or None in evaluation.

    Args:
        source: number of the source; -1 for the evaluation's shards.
        ordinal: number of the row in its source.
        epoch: the source's own epoch; None in evaluation, where nothing is random.
        attempt: 0, or the number of the substitute that it is.
    """

    source: int
    ordinal: int
    epoch: int | None = None
    attempt: int = 0


Prepared = dict[str, Any]
Prepare = Callable[[Row, Draw], Prepared]


@dataclass(frozen=True)
class Block:
    """One decoded entry: arrays `(rows, ...)`, and the rows that had to be replaced or masked."""

    entry: Entry
    arrays: dict[str, np.ndarray]
    bad: list[dict[str, Any]] = field(default_factory=list)


class Decoder:
    """Reads and prepares the rows of entries; one instance per decoding process.

    Two threads may use it: one reads while the other decodes.
    """

    def __init__(self, spec: StreamSpec) -> None:
        self.spec = spec
        self.system = make_system(spec.slug, spec.system_config)
        self.stage = stage_named(self.system, spec.stage)
        self._reading, self._decoding = threading.Lock(), threading.Lock()

    def blocks(self, together: Sequence[Entry], prepare: Prepare | None = None) -> Iterator[Block]:
        """Decode entries that are read together.

        Args:
            prepare: in place of `prepare`, for rows that are not to be tried in this process.

        Raises:
            RunFailure: a bad row where `--data.bad-rows fail` was asked for, or too many substitutes in a row.
        """
        if together[0].kind == EVALUATE:
            for entry in together:
                yield self.evaluation(entry, prepare or self.prepare)
            return
        planned = [planned_rows(self.spec.plan, entry) for entry in together]
        rows = self.read_all(planned)
        with self._decoding:
            for entry, plan, stored in zip(together, planned, rows, strict=True):
                yield self.training(entry, plan, stored, prepare or self.prepare)

    def read(self, source: int, ordinals: np.ndarray, anew: bool = False) -> list[Row | BadRow]:
        """Rows of a source as they are stored; -1 is the evaluation's.  `anew` as `ShardSet.read` has it."""
        with self._reading:
            return self.shards(source).read(ordinals, anew)

    def read_all(self, planned: Sequence[Planned]) -> list[list[Row | BadRow]]:
        """The rows of several entries, those of one source by one call, so that neighbours are one range read."""
        sources = np.concatenate([one.source for one in planned])
        ordinals = np.concatenate([one.row for one in planned])
        rows: list[Row | BadRow] = [BadRow("not read")] * len(sources)
        for number in np.unique(sources).tolist():
            places = np.flatnonzero(sources == number)
            for place, row in zip(places, self.read(number, ordinals[places]), strict=True):
                rows[place] = row
        ends = np.cumsum([len(one) for one in planned]).tolist()
        return [rows[end - len(one) : end] for one, end in zip(planned, ends, strict=True)]

    def training(self, entry: Entry, planned: Planned, stored: Sequence[Row | BadRow], prepare: Prepare) -> Block:
        """Rows of a global batch, in planned order, with substitutes for those that cannot be used."""
        prepared, bad = [], []
        columns = (planned.source.tolist(), planned.epoch.tolist(), planned.row.tolist(), planned.position.tolist())
        for source, epoch, ordinal, position, first in zip(*columns, stored, strict=True):
            row, draw = first, Draw(source, ordinal, epoch)
            for attempt in range(ATTEMPTS + 1):
                try:
                    values = self.usable(row, draw, prepare)
                    prepared.append(values | {"row": np.int64(draw.ordinal), "source": np.int32(source)})
                    break
                except BadRow as error:
                    where = self.address(draw, row) | {"reason": str(error)}
                    if self.spec.fail_on_bad_row or attempt == ATTEMPTS:
                        raise RunFailure(
                            f"{where['shard']}, row {where['row']} (key {where['key']!r}): {error}. Mend the "
                            "shard, or let such rows be replaced and logged with --data.bad-rows skip."
                        ) from None
                    bad.append(where | {"position": position})
                draw = Draw(source, self.substitute(source, epoch, ordinal, position, attempt), epoch, attempt + 1)
                row = self.read(source, np.array([draw.ordinal]))[0]
        return Block(entry, self.system.collate(prepared), bad)

    def usable(self, row: Row | BadRow, draw: Draw, prepare: Prepare) -> Prepared:
        """The system's arrays of a row; what cannot be used is read again first, for stores err, too.

        Raises:
            BadRow: it failed twice.
        """
        if isinstance(row, Row):
            with suppress(BadRow):
                return prepare(row, draw)
        again = self.read(draw.source, np.array([draw.ordinal]), anew=True)[0]
        if isinstance(again, BadRow):
            raise again
        return prepare(again, draw)

    def prepare(self, row: Row, draw: Draw) -> Prepared:
        """The system's arrays of a row, its random choices drawn from what the row is.

        Raises:
            BadRow: it cannot be used.
        """
        if draw.epoch is None:
            return self.system.prepare(self.stage, row, None)
        shards = self.shards(draw.source)
        shard, within = (int(part[0]) for part in shards.locate(np.array([draw.ordinal])))
        name = self.spec.plan.sources[draw.source].name
        chance = row_generator(self.spec.seed, draw.epoch, name, shards.name_of(shard), within, draw.attempt)
        # rows of two sources with one ordinal are not the same row
        known = replace(row, identity=draw.ordinal * len(self.spec.sources) + draw.source)
        return self.system.prepare(self.stage, known, chance)

    def substitute(self, source: int, epoch: int, ordinal: int, position: int, attempt: int) -> int:
        """Another row of the same source, decided by (seed, epoch, position, attempt) alone.

        Where whole shards are read it is one that is near in the epoch's order: no shard is taken for a single row.
        """
        name = self.spec.plan.sources[source].name
        chance = row_generator(self.spec.seed, epoch, name, "substitute", position, attempt)
        order = self.spec.plan.orders[source]
        if isinstance(order, ShardOrder):
            place = int(chance.integers(*order.near(epoch, ordinal)))
            return int(order.rows_at(epoch, place, place + 1)[0])
        return int(chance.integers(0, self.shards(source).num_rows))

    def evaluation(self, entry: Entry, prepare: Prepare) -> Block:
        """Rows of the evaluation set; padding and unusable rows are masked by `valid`, never replaced."""
        shards = self.shards(-1)
        numbers = np.arange(entry.start, entry.stop)
        stored = self.read(-1, numbers[numbers < shards.num_rows])
        prepared: list[Prepared | None] = []
        bad = []
        with self._decoding:
            for ordinal, row in zip(numbers.tolist(), stored, strict=False):
                draw = Draw(-1, ordinal)
                try:
                    prepared.append(self.usable(row, draw, prepare) | {"row": np.int64(ordinal)})
                except BadRow as error:
                    prepared.append(None)
                    bad.append(self.address(draw, row) | {"reason": str(error)})
        valid = np.zeros(len(numbers), dtype=bool)
        valid[: len(prepared)] = [one is not None for one in prepared]
        filler = next((one for one in prepared if one is not None), None) or self.any_row(prepare)
        filled = [one or filler for one in prepared] + [filler] * (len(numbers) - len(prepared))
        return Block(entry, self.system.collate(filled) | {"valid": valid}, bad)

    def any_row(self, prepare: Prepare) -> Prepared:
        """Some row that can be prepared: what masked places are filled with."""
        shards = self.shards(-1)
        for ordinal in range(min(SEARCHED, shards.num_rows)):
            row = self.read(-1, np.array([ordinal]))[0]
            with suppress(BadRow):
                if isinstance(row, Row):
                    return prepare(row, Draw(-1, ordinal)) | {"row": np.int64(ordinal)}
        raise RunFailure(f"{shards.url_of(0)}: none of the first rows can be used for evaluation.")

    def shards(self, source: int) -> ShardSet:
        """The shards of a source; -1 is the evaluation's."""
        if source >= 0:
            return self.spec.sources[source]
        assert self.spec.validation is not None
        return self.spec.validation

    def address(self, draw: Draw, row: Row | BadRow) -> dict[str, Any]:
        """Where a row lies, for people: shard, row within it, key if it could be read."""
        shards = self.shards(draw.source)
        shard, within = (int(part[0]) for part in shards.locate(np.array([draw.ordinal])))
        name = shards.name_of(shard)
        if draw.source >= 0 and len(self.spec.sources) > 1:
            name = f"{self.spec.plan.sources[draw.source].name}: {name}"
        return {"shard": name, "row": within, "key": getattr(row, "key", "?")}


def give_way() -> None:
    """Let this process take only cores that nobody else wants.

    Where decoders share cores with training, each would hold up one of the training's threads, and all others wait
    for that one at the next barrier: a step took twice as long.  A decoder that is late gets its cores back, for
    the training then waits for it.
    """
    if hasattr(os, "SCHED_IDLE"):  # Linux
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
