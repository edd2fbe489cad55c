"""Rows of the plan, decoded on CPUs of the cluster and delivered to one rank in planned order.

Each rank has one Ray Data pipeline: a single task writes the plan down lazily, one small entry per read, and a pool of
actors reads, decodes and augments.  With `preserve_order` blocks arrive as planned by construction, no rank waits for
another's coordinator, and nothing is dropped to make shares equal.

The pipeline runs in an actor of its own, which hands out references to blocks: its loops in the training's process
would take turns with the thread that feeds the GPU, and cost it a third of its time.

The stream's state is a step number: a pipeline started at step s gives what an uncut one gives from there.
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lumiray.data.decoder import Block, Decoder, give_way
from lumiray.data.entries import READ_BLOCKS, Entry, StreamSpec, entries, evaluation_entries, reads
from lumiray.storage import is_s3

NAP_S = 0.1
"""Pause of a pipeline's loop while no decoder works.  Ray Data's loop waits for its tasks; an entry that it may not
take, or blocks that nobody has taken yet, let it turn without a pause, and it turns on the training's cores."""
CALM, SHORT = 2, 4  # reads that a decoder has before it; with more than CALM of them Ray Data starts another decoder
ENTRY_BYTES = 1 << 10  # about what Ray Data counts for one line of the plan
TAKEN = 4  # blocks that a rank asks for ahead, so that they come from other nodes in time


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
        return READ_BLOCKS * (1 + 2 * self.most)


def items(spec: StreamSpec, rank: int, num_ranks: int, first_step: int, decoders: Decoders) -> Iterator[Block]:
    """A rank's part of training from `first_step` on, evaluations in their place.  Ray must be up."""
    return _run(spec, partial(entries, spec, rank, num_ranks, first_step), decoders)


def evaluation_items(spec: StreamSpec, rank: int, num_ranks: int, decoders: Decoders) -> Iterator[Block]:
    """A rank's part of one evaluation by itself; its entries carry step 0."""
    return _run(spec, partial(evaluation_entries, spec, 0, rank, num_ranks), decoders)


def _run(spec: StreamSpec, planned: Callable[[], Iterator[Entry]], decoders: Decoders) -> Iterator[Block]:
    """Start a pipeline over entries at once, and hand out its blocks in their order."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor = ray.remote(num_cpus=0, scheduling_strategy=here, concurrency_groups={"ledger": 1})(Pipeline)
    pipeline: Any = actor.remote()
    return _blocks(pipeline, pipeline.start.remote(spec, planned, decoders))


def _blocks(pipeline: Any, started: Any) -> Iterator[Block]:
    import ray

    try:
        ray.get(started)
        asked = deque(pipeline.next.remote() for _ in range(TAKEN))
        while (reference := ray.get(asked.popleft())) is not None:
            asked.append(pipeline.next.remote())
            yield _block(ray.get(reference[0]))
    finally:
        ray.kill(pipeline)  # its decoders end with it


class Pipeline:
    """A rank's pipeline; an actor."""

    def __init__(self) -> None:
        self._references: Iterator[Any] = iter(())
        self._begun: Counter[str] = Counter()

    def start(self, spec: StreamSpec, planned: Callable[[], Iterator[Entry]], decoders: Decoders) -> None:
        """Let decoders begin."""
        import ray.data

        plan = ray.data.read_datasource(_plan_source(planned), override_num_blocks=1, num_cpus=0)
        sets = (*spec.sources, *([spec.validation] if spec.validation else []))
        threads = 2 if any(is_s3(folder) for one in sets for folder in one.folders) else 1  # one reads ahead
        _configure(plan.context, decoders, threads)  # its own: several pipelines may run in one process
        blocks = plan.map_batches(
            DecodingActor,
            batch_size=None,
            zero_copy_batch=True,
            fn_constructor_args=(spec, ray.get_runtime_context().current_actor),
            compute=ray.data.ActorPoolStrategy(
                min_size=decoders.least,
                max_size=decoders.most,
                max_tasks_in_flight_per_actor=SHORT * threads,
                max_concurrent_calls_per_actor=threads,
                enable_true_multi_threading=True,
            ),
            num_cpus=decoders.cpus,
        )
        bundles = blocks.iter_internal_ref_bundles()
        self._references = (reference for bundle in bundles for reference in bundle.block_refs)

    def next(self) -> list[Any] | None:
        """Reference to the next block, in a list so that it is not followed; None at the end."""
        reference = next(self._references, None)
        return None if reference is None else [reference]

    def begin(self, task: str) -> int:
        """How often a task has begun before; the ledger of what died in the middle."""
        self._begun[task] += 1
        return self._begun[task] - 1


class DecodingActor:
    """A decoder as Ray Data runs it: one line of the plan in, one block per entry out."""

    def __init__(self, spec: StreamSpec, pipeline: Any) -> None:
        give_way()  # before torch is imported: the training's own start comes first
        self._pipeline = pipeline
        self._decoder = Decoder(spec)

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """Decode the entries of one line (Ray Data's batch form: arrays of length one).

        Returns:
            The system's arrays with a leading axis of one: a block is one row to Ray Data, so that it is
            never cut or joined on its way.
        """
        import ray

        line = str(batch["entries"][0])
        together = [Entry(*one) for one in json.loads(line)]
        if not ray.get(self._pipeline.begin.options(concurrency_group="ledger").remote(line)):
            yield from map(_row, self._decoder.blocks(together))
            return
        from lumiray.data.alone import Alone

        alone = Alone(self._decoder.spec)
        try:
            yield from map(_row, self._decoder.blocks(together, alone.prepare))
        finally:
            alone.close()


def _row(block: Block) -> dict[str, np.ndarray]:
    """A block as one row of Ray Data."""
    about = json.dumps([block.entry, block.bad])
    return {name: value[None] for name, value in block.arrays.items()} | {"_about": np.array([about])}


def _block(table: Any) -> Block:
    """The block that a row of Ray Data was, without a copy of its arrays."""
    from ray.data.block import BlockAccessor

    arrays = {name: value[0] for name, value in BlockAccessor.for_block(table).to_numpy().items()}
    entry, bad = json.loads(str(arrays.pop("_about")))
    return Block(Entry(*entry), arrays, bad)


def _configure(context: Any, decoders: Decoders, threads: int) -> None:
    """Blocks in planned order, of one row each to Ray Data, never more of them than the decoders' window.

    Ray Data bounds bytes.  That is not enough: entries weigh nothing, so it would write down the plan of a whole
    run ahead of time, and decode a store full of small blocks while the training loop stands still.

    A decoder more is started where reads queue up at those there are.  Without a limit they always do; here only
    once a window of blocks was taken and none lies ready, for a start takes seconds of cores that training shares.
    """
    from ray.data._internal.execution import backpressure_policy as policies

    class Window(policies.BackpressurePolicy):
        def can_add_input(self, op: Any) -> bool:
            done, active = self._topology[op].total_enqueued_output_blocks(), op.num_active_tasks()
            pools = op.get_autoscaling_actor_pools()
            if not pools:
                return True
            short = not done and op.metrics.num_outputs_taken >= decoders.window
            most = (SHORT if short else CALM) * threads * max(1, pools[0].current_size())
            return bool(active < most and READ_BLOCKS * active + done < decoders.window)

        def max_task_output_bytes_to_read(self, op: Any) -> int | None:
            if not op.output_dependencies:  # decoded blocks: none was begun that has no place
                if not op.num_active_tasks():
                    time.sleep(NAP_S)
                return None
            waiting = sum(self._topology[one].total_enqueued_input_blocks() for one in op.output_dependencies)
            return max(0, decoders.window // READ_BLOCKS - waiting) * ENTRY_BYTES

    context.target_max_block_size = 1  # bytes: every row of the two tables is a block of its own
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # a user's mistake arrives as one, not as text in a trace
    # Ray Data takes what a task has ready once or twice in a tenth of a second: the plan must not come line by line
    context._max_num_blocks_in_streaming_gen_buffer = READ_BLOCKS
    context.autoscaling_config.actor_pool_util_upscaling_threshold = (CALM + SHORT) / 2
    context.set_config(
        policies.ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [*policies.ENABLED_BACKPRESSURE_POLICIES, Window]
    )
    options = context.execution_options
    options.preserve_order = True
    options.resource_limits = options.resource_limits.copy(object_store_memory=decoders.object_store_bytes)


def _plan_source(planned: Callable[[], Iterator[Entry]]) -> Any:
    """The plan as a Ray Data source: one read task that yields the lines as fast as they are used."""
    import pyarrow as pa
    from ray.data import Datasource
    from ray.data.block import BlockMetadata
    from ray.data.datasource import ReadTask

    class PlanSource(Datasource):
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *args: Any, **options: Any) -> list[ReadTask]:
            def read() -> Iterator[pa.Table]:
                for together in reads(planned()):
                    yield pa.table({"entries": [json.dumps(together)]})

            unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ReadTask(read, unknown)]

    return PlanSource()
