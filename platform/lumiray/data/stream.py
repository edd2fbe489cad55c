"""Rows of the plan, decoded on CPUs of the cluster and delivered to one rank in planned order.

Each rank runs one Ray Data pipeline of its own: a single task writes the plan down lazily, one small entry
per block of rows, and a pool of actors reads, decodes and augments whole entries.  With `preserve_order`
blocks arrive as planned by construction, no rank waits for another's coordinator, and nothing is dropped to
make shares equal.  Evaluation rows are entries of the same stream, between the training steps where they are
due, so that no second pool has to start.

The stream's state is a step number: a pipeline started at step s gives what an uncut one gives from there.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from lumiray.data.index import ShardSet
from lumiray.data.plan import Plan, Planned
from lumiray.data.randomness import row_generator
from lumiray.errors import RunFailure
from lumiray.registry import system as make_system
from lumiray.system import BadRow, Row, stage_named

BLOCK_ROWS = 128  # of decoded rows in one block: 19 MB at 224 pixels, under the object store's sweet spot
ATTEMPTS = 8  # substitutes tried for a bad row before the block gives up
NAP_S = 0.1
"""Pause of a pipeline's loop while no decoder works.  Ray Data's loop waits for its tasks; an entry that it may not
take, or blocks that nobody has taken yet, let it turn without a pause, and it turns on the training's cores."""
TRAIN, EVALUATE = "train", "evaluate"


class Entry(NamedTuple):
    """One block of rows to decode: rows `start` to `stop` of a global batch, or of the evaluation order."""

    kind: str
    step: int
    start: int
    stop: int


@dataclass(frozen=True)
class StreamSpec:
    """Everything that decides what a rank receives; travels to the decoders, so it is small and picklable.

    Args:
        sources: shard sets by the plan's source number.
        evaluate_every: steps between evaluations; 0 for none but the last.
        total_steps: steps of the whole run.
    """

    slug: str
    system_config: Any
    stage: str
    plan: Plan
    sources: tuple[ShardSet, ...]
    seed: int
    total_steps: int
    validation: ShardSet | None = None
    evaluation_batch_size: int = 0
    evaluate_every: int = 0
    fail_on_bad_row: bool = False

    def evaluation_due(self, step: int) -> bool:
        """Whether an evaluation follows after `step` finished steps."""
        if self.validation is None:
            return False
        return step == self.total_steps or bool(self.evaluate_every and step % self.evaluate_every == 0)


def rank_rows(plan: Plan, rank: int, num_ranks: int) -> tuple[int, int]:
    """First and last (exclusive) row of a global batch that belong to a rank."""
    share = plan.num_micro_batches // num_ranks * plan.micro_batch_size
    return rank * share, (rank + 1) * share


def entries(spec: StreamSpec, rank: int, num_ranks: int, first_step: int) -> Iterator[Entry]:
    """The stream of a rank from `first_step` (0-based) to the end of the run, evaluations in their place."""
    low, high = rank_rows(spec.plan, rank, num_ranks)
    for step in range(first_step, spec.total_steps):
        for start in range(low, high, BLOCK_ROWS):
            yield Entry(TRAIN, step, start, min(high, start + BLOCK_ROWS))
        if spec.evaluation_due(step + 1):
            yield from evaluation_entries(spec, step + 1, rank, num_ranks)


def num_evaluation_batches(spec: StreamSpec, num_ranks: int) -> int:
    """Batches of one evaluation on each rank: equally many on all of them."""
    rows = spec.validation.num_rows if spec.validation else 0
    return -(-rows // (spec.evaluation_batch_size * num_ranks)) if rows else 0


def evaluation_entries(spec: StreamSpec, step: int, rank: int, num_ranks: int) -> Iterator[Entry]:
    """One evaluation of a rank, the tail padded with masked rows."""
    size, per_rank = spec.evaluation_batch_size, num_evaluation_batches(spec, num_ranks)
    for start in range(rank * per_rank * size, (rank + 1) * per_rank * size, size):
        yield Entry(EVALUATE, step, start, start + size)


def planned_rows(plan: Plan, entry: Entry) -> Planned:
    """The plan of an entry's rows, which may begin and end inside micro-batches."""
    size = plan.micro_batch_size
    first, last = entry.start // size, -(-entry.stop // size)
    batch = plan.batch(entry.step, range(first, last))
    cut = slice(entry.start - first * size, entry.stop - first * size)
    return Planned(batch.source[cut], batch.epoch[cut], batch.row[cut], batch.position[cut])


class Decoder:
    """Reads and prepares the rows of entries; one instance per decoding process."""

    def __init__(self, spec: StreamSpec) -> None:
        _give_way()  # before torch is imported: the training's own start comes first
        self.spec = spec
        self.system = make_system(spec.slug, spec.system_config)
        self.stage = stage_named(self.system, spec.stage)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Decode one entry (Ray Data's batch form: arrays of length one).

        Returns:
            The system's arrays with a leading axis of one: a block is one row to Ray Data, so that it is
            never cut or joined on its way.
        """
        entry = Entry(str(batch["kind"][0]), int(batch["step"][0]), int(batch["start"][0]), int(batch["stop"][0]))
        arrays, bad = self.training(entry) if entry.kind == TRAIN else self.evaluation(entry)
        block = {name: value[None] for name, value in arrays.items()}
        block["_entry"] = np.array([json.dumps([*entry])])
        block["_bad"] = np.array([json.dumps(bad)])
        return block

    def training(self, entry: Entry) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
        """Rows of a global batch, in planned order, with substitutes for those that cannot be used."""
        planned = planned_rows(self.spec.plan, entry)
        rows: list[Row | BadRow] = [BadRow("not read")] * len(planned)
        for number in np.unique(planned.source).tolist():
            places = np.flatnonzero(planned.source == number)
            for place, row in zip(places, self.spec.sources[number].read(planned.row[places]), strict=True):
                rows[place] = row
        prepared, bad = [], []
        for at, row in enumerate(rows):
            source, epoch, ordinal, position = (
                int(part[at]) for part in (planned.source, planned.epoch, planned.row, planned.position)
            )
            for attempt in range(ATTEMPTS + 1):
                try:
                    prepared.append(self.prepared(row, source, epoch, ordinal, attempt))
                    break
                except BadRow as error:
                    where = self.address(source, ordinal, row) | {"reason": str(error)}
                    if self.spec.fail_on_bad_row or attempt == ATTEMPTS:
                        raise RunFailure(
                            f"{where['shard']}, row {where['row']} (key {where['key']!r}): {error}. Mend the "
                            "shard, or let such rows be replaced and logged with --data.bad-rows skip."
                        ) from None
                    bad.append(where | {"position": position})
                ordinal = self.substitute(source, epoch, position, attempt)
                row = self.spec.sources[source].read(np.array([ordinal]))[0]
        return self.system.collate(prepared), bad

    def prepared(self, row: Row | BadRow, source: int, epoch: int, ordinal: int, attempt: int) -> dict[str, Any]:
        """The system's arrays of a row, its random choices drawn from what the row is."""
        if isinstance(row, BadRow):
            raise row
        shards = self.spec.sources[source]
        shard, within = (int(part[0]) for part in shards.locate(np.array([ordinal])))
        name = self.spec.plan.sources[source].name
        draw = row_generator(self.spec.seed, epoch, name, shards.name_of(shard), within, attempt)
        # rows of two sources with one ordinal are not the same row
        known = replace(row, identity=ordinal * len(self.spec.sources) + source)
        values = self.system.prepare(self.stage, known, draw)
        return values | {"row": np.int64(ordinal), "source": np.int32(source)}

    def substitute(self, source: int, epoch: int, position: int, attempt: int) -> int:
        """Another row of the same source, decided by (seed, epoch, position, attempt) alone."""
        name = self.spec.plan.sources[source].name
        draw = row_generator(self.spec.seed, epoch, name, "substitute", position, attempt)
        return int(draw.integers(0, self.spec.sources[source].num_rows))

    def address(self, source: int, ordinal: int, row: Row | BadRow) -> dict[str, Any]:
        """Where a training row lies, for people: shard, row within it, key if it could be read."""
        where = address(self.spec.sources[source], ordinal, row)
        if len(self.spec.sources) > 1:
            where["shard"] = f"{self.spec.plan.sources[source].name}: {where['shard']}"
        return where

    def evaluation(self, entry: Entry) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
        """Rows of the evaluation set; padding and unusable rows are masked by `valid`, never replaced."""
        shards = self.spec.validation
        assert shards is not None
        numbers = np.arange(entry.start, entry.stop)
        prepared: list[dict[str, Any] | None] = []
        bad = []
        for ordinal, row in zip(numbers, shards.read(numbers[numbers < shards.num_rows]), strict=False):
            try:
                if isinstance(row, BadRow):
                    raise row
                prepared.append(self.system.prepare(self.stage, row, None) | {"row": np.int64(ordinal)})
            except BadRow as error:
                prepared.append(None)
                bad.append(address(shards, int(ordinal), row) | {"reason": str(error)})
        valid = np.zeros(len(numbers), dtype=bool)
        valid[: len(prepared)] = [one is not None for one in prepared]
        filler = next((one for one in prepared if one is not None), None) or self.any_row(shards)
        filled = [one or filler for one in prepared] + [filler] * (len(numbers) - len(prepared))
        return self.system.collate(filled) | {"valid": valid}, bad

    def any_row(self, shards: ShardSet) -> dict[str, Any]:
        """Some row that can be prepared: what masked places are filled with."""
        for ordinal in range(min(1000, shards.num_rows)):
            row = shards.read(np.array([ordinal]))[0]
            if isinstance(row, Row):
                try:
                    return self.system.prepare(self.stage, row, None) | {"row": np.int64(ordinal)}
                except BadRow:
                    continue
        raise RunFailure(f"{shards.url_of(0)}: none of the first rows can be used for evaluation.")


def address(shards: ShardSet, ordinal: int, row: Row | BadRow) -> dict[str, Any]:
    """Where a row lies: shard, row within it, key if it could be read."""
    shard, within = (int(part[0]) for part in shards.locate(np.array([ordinal])))
    return {"shard": shards.name_of(shard), "row": within, "key": getattr(row, "key", "?")}


def _give_way() -> None:
    """Let this process take only cores that nobody else wants.

    Where decoders share cores with training, each would hold up one of the training's threads, and all others wait
    for that one at the next barrier: a step took twice as long.  A decoder that is late gets its cores back, for
    the training then waits for it.
    """
    if hasattr(os, "SCHED_IDLE"):  # Linux
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


@dataclass(frozen=True)
class Item:
    """One delivered block: its entry, arrays `(rows, ...)`, and the rows that had to be replaced."""

    entry: Entry
    arrays: dict[str, np.ndarray]
    bad: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Decoders:
    """The pool of decoding actors of one rank: between `least` and `most`, each asking for `cpus` cores.

    Args:
        object_store_bytes: what decoded blocks may take; `window` is the tighter limit where blocks are small.
    """

    least: int = 1
    most: int = 1
    cpus: float = 1.0
    object_store_bytes: int = 1 << 30

    @property
    def window(self) -> int:
        """Blocks that may be under way or wait decoded, however long the training loop takes none."""
        return max(16, 4 * self.most)


def items(spec: StreamSpec, rank: int, num_ranks: int, first_step: int, decoders: Decoders) -> Iterator[Item]:
    """A rank's part of training from `first_step` on, evaluations in their place.  Ray must be up."""
    return _run(spec, partial(entries, spec, rank, num_ranks, first_step), decoders)


def evaluation_items(spec: StreamSpec, rank: int, num_ranks: int, decoders: Decoders) -> Iterator[Item]:
    """A rank's part of one evaluation by itself; its entries carry step 0."""
    return _run(spec, partial(evaluation_entries, spec, 0, rank, num_ranks), decoders)


def _run(spec: StreamSpec, planned: Callable[[], Iterator[Entry]], decoders: Decoders) -> Iterator[Item]:
    """Run a pipeline over entries; blocks come in their order."""
    import ray.data

    plan = ray.data.read_datasource(_plan_source(planned), override_num_blocks=1, num_cpus=0)
    _configure(plan.context, decoders)  # its own: several pipelines may run in one process
    blocks = plan.map_batches(
        Decoder,
        batch_size=None,
        zero_copy_batch=True,
        fn_constructor_args=(spec,),
        compute=ray.data.ActorPoolStrategy(min_size=decoders.least, max_size=decoders.most),
        num_cpus=decoders.cpus,
    )
    for batch in blocks.iter_batches(batch_size=None, prefetch_batches=1):
        entry = Entry(*json.loads(str(batch.pop("_entry")[0])))
        bad = json.loads(str(batch.pop("_bad")[0]))
        yield Item(entry, {name: value[0] for name, value in batch.items()}, bad)


def _configure(context: Any, decoders: Decoders) -> None:
    """Blocks in planned order, of one row each to Ray Data, never more of them than the decoders' window.

    Ray Data bounds bytes.  That is not enough: entries weigh nothing, so it would write down the plan of a whole
    run ahead of time, and decode a store full of small blocks while the training loop stands still.

    A decoder more is started where entries queue up at those there are.  Without a limit they always do; here only
    once a window of blocks was taken and none lies ready, for a start takes seconds of cores that training shares.
    """
    from ray.data._internal.execution import backpressure_policy as policies

    class Window(policies.BackpressurePolicy):
        def can_add_input(self, op: Any) -> bool:
            done, active = self._topology[op].total_enqueued_output_blocks(), op.num_active_tasks()
            pools = op.get_autoscaling_actor_pools()
            short = not done and op.metrics.num_outputs_taken >= decoders.window
            if pools and decoders.least < decoders.most and not short:
                return bool(active < pools[0].current_size() and active + done < decoders.window)
            return bool(active + done < decoders.window)

        def max_task_output_bytes_to_read(self, op: Any) -> int | None:
            if not op.output_dependencies:  # decoded blocks: none was begun that has no place
                if not op.num_active_tasks():
                    time.sleep(NAP_S)
                return None
            waiting = sum(self._topology[one].total_enqueued_input_blocks() for one in op.output_dependencies)
            return max(0, decoders.window - waiting)  # an entry has more bytes than one, so this many are the most

    context.target_max_block_size = 1  # bytes: every row of the two tables is a block of its own
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # a user's mistake arrives as one, not as text in a trace
    context.set_config(
        policies.ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [*policies.ENABLED_BACKPRESSURE_POLICIES, Window]
    )
    options = context.execution_options
    options.preserve_order = True
    options.resource_limits = options.resource_limits.copy(object_store_memory=decoders.object_store_bytes)


def _plan_source(planned: Callable[[], Iterator[Entry]]) -> Any:
    """The plan as a Ray Data source: one read task that yields entries as fast as they are used."""
    import pyarrow as pa
    from ray.data import Datasource
    from ray.data.block import BlockMetadata
    from ray.data.datasource import ReadTask

    class PlanSource(Datasource):
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *args: Any, **options: Any) -> list[ReadTask]:
            def read() -> Iterator[pa.Table]:
                for entry in planned():
                    yield pa.table({name: [value] for name, value in entry._asdict().items()})

            unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ReadTask(read, unknown)]

    return PlanSource()
