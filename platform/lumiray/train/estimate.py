"""A job measured without being run: its networks as shapes, a few of its rows, one step without memory."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace

import torch

from lumiray.config import JobConfig, RunConfig
from lumiray.data.entries import StreamSpec
from lumiray.registry import system as make_system
from lumiray.system import Player, Stage, System, stage_named
from lumiray.train.checks import Checked, announced, check_job
from lumiray.train.cluster import share_out
from lumiray.train.engine import PlayerModule
from lumiray.train.engine_settings import deepspeed_settings
from lumiray.train.finetune import apply_finetuning
from lumiray.train.launch import make_stream
from lumiray.train.memory import FP32, Cut, Size, State, checkpoint_bytes, moments_of, state_memory
from lumiray.train.reading import Reading, measure_reading, open_here
from lumiray.train.recipe import resolved_player
from lumiray.train.rehearsal import DTYPES, add_what_others_leave, one_step, rehearse, step_with_all
from lumiray.train.without_memory import networks_without_memory

DELIVERIES = 4  # of a step's rows on the device: in use, two that wait (feed.Feed), one on its way
TIMED_FLOPS, FEWEST_ROWS = 50e9, 4  # of a micro-batch that is tried on this machine's cores


@dataclass(frozen=True)
class Job:
    """A checked job with its networks as shapes, and what was measured of it.

    Args:
        activations: bytes, or None where they cannot be told.
        flops: arithmetic per sample, or None.
        obstacle: why these two are not known.
    """

    checked: Checked
    stream: StreamSpec
    system: System
    stage: Stage
    reading: Reading
    sizes: dict[str, list[Size]]  # by network
    buffers: dict[str, int]  # bytes, by network
    activations: int | None = None
    flops: float | None = None
    obstacle: str = ""

    @property
    def run(self) -> RunConfig:
        """The run's options."""
        return self.checked.job.run

    @property
    def workers(self) -> int:
        """Workers that take part."""
        return self.checked.sizes.workers

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one worker in a step."""
        return self.checked.sizes.num_micro_batches // self.workers

    @property
    def micro_batch(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of every tensor of a micro-batch."""
        size = self.checked.sizes.micro_batch_size
        return {
            name: ((size, *shape), getattr(torch, str(dtype))) for name, (shape, dtype) in self.reading.arrays.items()
        }


def measure(job: JobConfig) -> Job:
    """Check the job, look at its rows, rehearse a step."""
    checked = check_job(job, start=False)  # of several stages, the one before may not have been trained yet
    print("\n".join(announced(checked)), flush=True)
    run = checked.job.run
    if run.device == "cpu":
        share_out(run, checked.sizes.workers, {"CPU": float(os.cpu_count() or 1)})  # refuses what CPUs cannot do
    system = make_system(checked.job.slug, checked.job.system)
    networks_without_memory(system, stage_named(system, checked.stage.name))
    apply_finetuning(system, stage_named(system, checked.stage.name), run.finetune)
    stage = stage_named(system, checked.stage.name)  # again: networks exist now
    stream = make_stream(checked, open_here)
    reading = measure_reading(stream, checked.sizes.workers)
    sizes = {
        name: [Size(one.numel(), one.requires_grad) for one in network.parameters()]
        for name, network in system.networks.items()
    }
    buffers = {
        name: sum(one.numel() * one.element_size() for one in network.buffers())
        for name, network in system.networks.items()
    }
    found = Job(checked, stream, system, stage, reading, sizes, buffers)
    try:
        costs = [
            (one, rehearse(system, stage, one, found.micro_batch, found.micro_batches, found.workers, run.precision))
            for one in stage.players
        ]
    except RuntimeError as error:
        return replace(found, obstacle=str(error).strip().partition("\n")[0] or type(error).__name__)
    return replace(
        found,
        activations=max(cost.bytes for _, cost in costs),
        flops=sum(cost.flops / player.every for player, cost in costs),
    )


def saved_bytes(job: Job) -> int:
    """Bytes of one checkpoint over all workers."""
    total = 0
    for player in players(job):
        sizes = [one for name in player.networks for one in job.sizes[name]]
        total += checkpoint_bytes(sizes, job.run.precision, moments_of(player))
        total += sum(job.buffers[name] for name in player.networks)
    return total


def players(job: Job) -> list[Player]:
    """The stage's players with the user's optimizer."""
    return [resolved_player(one, job.run) for one in job.stage.players]


def state_of(job: Job, on_gpu: bool) -> State:
    """State of all engines on one worker, and of networks that only help."""
    settings = deepspeed_settings(job.run, 1, job.workers)
    cut = Cut(
        settings["zero_optimization"],
        job.run.precision,
        job.workers,
        accumulates=job.micro_batches > 1,
        on_gpu=on_gpu,
    )
    state, helping = State(), set(job.sizes)
    for player in players(job):
        helping -= {*player.networks}
        sizes = [one for name in player.networks for one in job.sizes[name]]
        state += state_memory(sizes, replace(cut, moments=moments_of(player)))
    return state + State(sum(one.elements * FP32 for name in helping for one in job.sizes[name]))


def rows_on_device(job: Job) -> int:
    """Bytes of decoded rows that wait on a worker's device or are in use."""
    return DELIVERIES * job.reading.row_bytes * job.checked.sizes.micro_batch_size * job.micro_batches


def core_seconds_per_row(job: Job) -> float:
    """Time of one core of this machine that one row takes in training, measured with real networks."""
    system = make_system(job.checked.job.slug, job.checked.job.system)
    system.build(job.stage)
    enough = int(TIMED_FLOPS / (job.flops or TIMED_FLOPS))  # of the whole micro-batch, where that takes long
    rows = min(max(enough, FEWEST_ROWS), job.checked.sizes.micro_batch_size)
    batch = {name: torch.ones((rows, *shape[1:]), dtype=dtype) for name, (shape, dtype) in job.micro_batch.items()}
    taken, threads = 0.0, torch.get_num_threads()
    torch.set_num_threads(1)
    for player in job.stage.players:
        for name in player.networks:
            system.networks[name].to(DTYPES[job.run.precision])
        add_what_others_leave(system, job.stage, player, batch)
        module, step = PlayerModule(system, player), step_with_all(job.stage)
        one_step(module, batch, 1, step, time.process_time)  # makes what is made once
        taken += one_step(module, batch, job.micro_batches, step, time.process_time) / player.every
    torch.set_num_threads(threads)
    return taken / (rows * job.micro_batches)
