"""What runs on every training worker: device, feed, networks, engines, then the loop.

The feed is started before anything heavy is imported, so that decoders come up while the networks are
built.  A run is restarted by starting this function again: it finds the last checkpoint by itself.
"""

from __future__ import annotations

import os
import random
import traceback
from dataclasses import dataclass
from typing import Any

from lumiray.config import JobConfig
from lumiray.data.entries import StreamSpec, rank_rows
from lumiray.data.stream import Decoders, items
from lumiray.errors import RunFailure
from lumiray.evaluate.classes import Classes
from lumiray.system import System, stage_named
from lumiray.train.failure import STAYS, out_of_memory, user_error_behind
from lumiray.train.marks import Marks
from lumiray.train.status import begin, end

# mistakes in code, ours or a system's: starting the workers again would only repeat them
BUGS = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, NotImplementedError, NameError)


@dataclass(frozen=True)
class WorkerSpec:
    """Everything a worker needs; decided once by the driver.

    Args:
        identity: what a checkpoint of this run says about its settings.
        classes: of the zero-shot evaluation, if there is one.
        resume_from: address of a checkpoint to start from, or None for the newest in the run's output.
        threads: threads of one worker for work on the CPU.
        until: step after which this start of the run ends with a checkpoint, as if it had been told to stop then.
    """

    job: JobConfig
    stream: StreamSpec
    stage: str
    output: str
    identity: dict[str, Any]
    decoders: Decoders
    device: str
    threads: int
    marks: Marks
    resume_from: str | None = None
    classes: Classes | None = None
    until: int | None = None


def work(spec: WorkerSpec, board: Any) -> None:
    """Entry point of a Ray Train worker.

    A user's mistake is recorded at the board before it is raised, so that a restarted group gives up at once.
    """
    import ray

    if ray.get(board.state.remote())[1] is not None:
        return
    try:
        _work(spec, board)
    except Exception as error:
        told = user_error_behind(error) or out_of_memory(error)
        if told is None and isinstance(error, BUGS):
            told = RunFailure(traceback.format_exc())
        if told is not None:
            text = str(told) if told is error else f"{told}\n{STAYS.format(spec.output)}"
            ray.get(board.fail.remote(text, told.exit_code))
        raise


def _work(spec: WorkerSpec, board: Any) -> None:
    import ray.train

    from lumiray.train.checkpoint import latest, open_checkpoint

    spec.marks.reach("worker_group")
    context = ray.train.get_context()
    rank, num_ranks = context.get_world_rank(), context.get_world_size()
    manifest = latest(spec.output)
    if manifest is None and spec.resume_from:
        manifest = open_checkpoint(spec.resume_from)
    first_step = int(manifest.position["step"]) if manifest else 0
    stream = items(spec.stream, rank, num_ranks, first_step, spec.decoders)
    low, high = rank_rows(spec.stream.plan, rank, num_ranks)

    device = make_device(spec)
    from lumiray.data.feed import Feed

    feed = Feed(stream, high - low, device)
    try:
        _train(spec, board, manifest, feed, device)
    finally:
        feed.close()


def make_device(spec: WorkerSpec) -> Any:
    """The worker's device, with threads and DeepSpeed's environment set for it."""
    import ray.train
    import torch

    context = ray.train.get_context()
    torch.set_num_threads(spec.threads)
    os.environ["LOCAL_RANK"] = str(context.get_local_rank())
    if spec.device == "gpu":
        torch.backends.cuda.matmul.allow_tf32 = True
        return torch.device("cuda", torch.cuda.current_device())
    os.environ["DS_ACCELERATOR"] = "cpu"
    return torch.device("cpu")


def _train(spec: WorkerSpec, board: Any, manifest: Any, feed: Any, device: Any) -> None:
    import ray.train
    import torch.distributed as dist

    from lumiray.train.board import StopWatch
    from lumiray.train.checkpoint import Checkpointer, restore
    from lumiray.train.loop import Loop, Place, Surroundings
    from lumiray.train.notice import of_this_node
    from lumiray.train.players import Counters, make_players

    run = spec.job.run
    context = ray.train.get_context()
    rank, num_ranks = context.get_world_rank(), context.get_world_size()
    plan = spec.stream.plan
    place = Place(rank, num_ranks, device, plan.micro_batch_size, plan.num_micro_batches, spec.stream.total_steps)
    system = networks(spec, fresh=manifest is None)
    system.networks.to(device)
    flops = system.flops_per_sample(stage_named(system, spec.stage)) if rank == 0 else None
    stage = stage_named(system, spec.stage)  # again: names without decay are known once networks exist
    spec.marks.reach("networks")
    players = make_players(system, stage, run, place.global_batch_size // num_ranks, device)
    spec.marks.reach("engines")
    best = run.checkpoint.best
    checkpointer = Checkpointer(
        spec.output,
        rank,
        num_ranks,
        keep=run.checkpoint.keep,
        best=(best.lstrip("-"), "min" if best.startswith("-") else "max") if best else None,
        identity=spec.identity,
    )
    position = None
    if manifest is not None:
        position = restore(manifest, {name: one.engine for name, one in players.items()})
    progress = make_progress(spec, board, checkpointer, manifest, flops) if rank == 0 else None
    notice = of_this_node(rank)
    around = Surroundings(
        spec.stream, feed, checkpointer, progress, spec.marks, notice, lambda text: board.show.remote(text, False)
    )
    loop = Loop(run, place, stage, players, around, spec.classes)
    if position is not None:
        loop.counters = Counters(**position)
    watch = StopWatch(board)

    def stop_requested() -> bool:
        return watch.stop_requested() or (spec.until is not None and loop.counters.step >= spec.until)

    try:
        done = loop.train(stop_requested)
        checkpointer.wait()
        dist.barrier()
        if rank == 0:
            end(spec.output, done, loop.counters.step, loop.metrics)
    finally:
        notice.close()
        checkpointer.close()
        if progress:
            progress.close()


def make_progress(spec: WorkerSpec, board: Any, checkpointer: Any, manifest: Any, flops: float | None) -> Any:
    """Say that the run is on its way, and open all that its numbers go to; of rank 0.

    Args:
        checkpointer: tells the age of the last checkpoint.
        manifest: of the checkpoint that the run goes on from, or None.
        flops: of forward and backward of one sample, if known.
    """
    import ray.train

    from lumiray.train.gauges import Gauges
    from lumiray.train.progress import Progress

    first_step = int(manifest.position["step"]) if manifest is not None else 0
    progress = Progress(
        spec.output,
        board.show.remote,
        total_steps=spec.stream.total_steps,
        first_step=first_step,
        log=spec.job.run.log,
        flops_per_sample=flops,
        num_devices=ray.train.get_context().get_world_size(),
    )
    tags = {"run": spec.output, "system": spec.job.slug, "stage": spec.stage}
    constant = {"total_steps": spec.stream.total_steps, "restarts": begin(spec.output, first_step)}
    progress.also_to(Gauges(tags, constant, checkpointer.age_s))
    if manifest is not None:
        progress.message(f"resumed at step {first_step} from {manifest.url}")
    return progress


def networks(spec: WorkerSpec, fresh: bool) -> System:
    """The system with the stage's networks, the same on every rank; those of a fresh run as what it starts from says.

    Raises:
        UserError: weights that do not fit.
    """
    from lumiray.registry import system as make_system
    from lumiray.train.chain import start_from
    from lumiray.train.finetune import apply_finetuning

    run = spec.job.run
    system = make_system(spec.job.slug, spec.job.system)
    seed_everything(run.seed)
    stage = stage_named(system, spec.stage)
    system.build(stage)
    if fresh and run.start_from:
        start_from(run.start_from, system, stage)
    apply_finetuning(system, stage, run.finetune)
    return system


def seed_everything(seed: int) -> None:
    """Seed the generators that building networks draws from."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
