"""What a run would do, without doing it: `--dry-run`.

Every check of a real run is made.  Shards are opened and a few of their rows decoded here, and one step is
rehearsed on tensors without memory; nothing is started, and nothing is written but the index of the shards.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import psutil
import torch

from lumiray.config import JobConfig, RunConfig
from lumiray.registry import system as make_system
from lumiray.storage import is_s3
from lumiray.system import stage_named
from lumiray.train.chain import stage_jobs
from lumiray.train.estimate import Job, core_seconds_per_row, measure, rows_on_device, saved_bytes, state_of
from lumiray.train.flops import PEAKS
from lumiray.train.progress import duration

GB, GIB = 1e9, float(1 << 30)
GPUS = {"A100": 80, "H100": 80}  # what the table supposes; GiB of memory
UTILISATION = 0.4  # of the device's peak; well-tuned training of transformers reaches it
PROCESS = 1 << 30  # bytes of a worker's process before it holds anything of the run
TIMED_ELEMENTS = 200_000_000  # of networks that are tried on this machine's cores
S3_READS_PER_S = 5_500  # that S3 gives to one prefix
LESS_MEMORY = "lower --micro-batch-size, turn on --grad-checkpointing or raise --zero"


def describe_job(job: JobConfig) -> str:
    """Steps, memory, cores, reads and checkpoints of a job, as text; of every stage that it would train.

    Raises:
        UserError: whatever the job itself would refuse.
    """
    return "\n".join([*("\n".join(describe_stage(one)) for one in stage_jobs(job)), "", "Nothing was started."])


def describe_stage(job: JobConfig) -> list[str]:
    """The lines of one stage."""
    stage = stage_named(make_system(job.slug, job.system), job.run.stage)
    if stage.derives:
        return [f"{job.slug}/{stage.name}: not measured; its rows of {stage.derives} come from {stage.start}"]
    measured = measure(job)
    lines = [networks(measured), memory(measured), data(measured), checkpoints(measured)]
    if measured.flops is not None:
        lines += ["", *speed_table(measured, measured.flops)]
    else:
        lines.append(f"speed         not known: one step could not be rehearsed ({measured.obstacle})")
    return lines


def networks(job: Job) -> str:
    """How large the networks are."""
    every = [size for sizes in job.sizes.values() for size in sizes]
    trained = sum(one.elements for one in every if one.trained)
    frozen = sum(one.elements for one in every) - trained
    work = f"; {job.flops / 1e9:.3g} GFLOP per picture in all passes" if job.flops else ""
    return f"networks      {trained / 1e6:.1f} M parameters trained, {frozen / 1e6:.1f} M frozen{work}"


def memory(job: Job) -> str:
    """What one worker needs, part by part."""
    on_gpu = not runs_on_cpus_here(job.run)
    state = state_of(job, on_gpu)
    parts = {"weights": state.weights, "gradients": state.gradients, "optimizer": state.optimizer}
    parts |= {"buffers": state.buffers, "rows": rows_on_device(job)}
    if job.activations is not None:
        parts["activations"] = job.activations
    named = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items())
    line = f"memory        {sum(parts.values()) / GIB:.2f} GiB per worker at most: {named}"
    if not on_gpu:
        line += f"; and about {PROCESS >> 30} GiB for the process and its libraries"
    if state.host:
        line += f"; offloaded to its host's memory: {state.host / GIB:.2f} GiB"
    return line


def data(job: Job) -> str:
    """What decoding and reading one picture costs."""
    return (
        f"data          {job.reading.rows_per_s:.0f} pictures/s decoded by one core of this machine, "
        f"{job.reading.requests_per_row:.2f} range reads per picture"
    )


def checkpoints(job: Job) -> str:
    """How large checkpoints are, and how many stay."""
    own = job.run.checkpoint
    written = math.ceil(job.stream.total_steps / own.every)
    at_once = min(written, own.keep + (own.best is not None) + 1)  # an old one goes when a new one is there
    one = saved_bytes(job) / GB
    return f"checkpoints   {written} of {one:.2f} GB over the run, {at_once} at once at most: {at_once * one:.2f} GB"


def runs_on_cpus_here(run: RunConfig) -> bool:
    """Whether the job, started now, would train on this machine's cores."""
    if run.device != "auto":
        return run.device == "cpu"
    return not os.environ.get("RAY_ADDRESS") and not torch.cuda.is_available()


def speed_table(job: Job, flops: float) -> list[str]:
    """What the whole run takes on devices that people have, one line each, and what stands in its way."""
    lines = [
        f"{f'{job.workers} worker(s) on':20s} {'pictures/s':>11s} {'decoding cores':>15s} {'range reads/s':>14s} "
        f"{'its memory':>11s} {'whole run':>10s}"
    ]
    if runs_on_cpus_here(job.run):
        lines += on_these_cores(job)
    if job.run.device != "cpu":
        lines += on_gpus(job, flops)
    return lines


def on_gpus(job: Job, flops: float) -> Iterator[str]:
    """The table's lines for GPUs, and notes on what does not fit."""
    needed = (state_of(job, True).device + rows_on_device(job) + (job.activations or 0)) / GIB
    # in fp32 products of matrices take TF32, at half the rate
    rates = {
        name: job.workers * UTILISATION * PEAKS[name] / flops / (1 + (job.run.precision == "fp32")) for name in GPUS
    }
    for name, rate in rates.items():
        yield row(job, f"{name} {GPUS[name]} GB", rate, needed / GPUS[name])
    yield f"(GPUs at {UTILISATION:.0%} of their peak, which small networks do not reach; decoding on cores as here)"
    for name, gib in GPUS.items():
        if needed > gib:
            yield f"note: {needed:.0f} GiB do not fit an {name} of {gib} GB: {LESS_MEMORY}"
    reads = max(rates.values()) * job.reading.requests_per_row
    on_s3 = any(is_s3(source.folders[0]) for source in job.stream.sources)
    if on_s3 and reads > S3_READS_PER_S:
        yield (
            f"note: S3 gives {S3_READS_PER_S:,} range reads per second to one prefix: lower --data.group-rows (longer "
            "reads, less shuffling), or spread the shards over several prefixes"
        )


def row(job: Job, name: str, rate: float, share: float) -> str:
    """One line of the table: rate in pictures/s over all workers, share of the device's memory."""
    run_s = job.stream.total_steps * job.checked.sizes.global_batch_size / rate
    return (
        f"{name:20s} {rate:11,.0f} {rate / job.reading.rows_per_s:15,.1f} "
        f"{rate * job.reading.requests_per_row:14,.0f} {share:11.0%} {duration(run_s):>10s}"
    )


def on_these_cores(job: Job) -> Iterator[str]:
    """The table's line for this machine, where training and decoding share the cores."""
    cores = len(psutil.Process().cpu_affinity())
    needed = job.workers * (PROCESS + state_of(job, False).device + rows_on_device(job) + (job.activations or 0))
    there = psutil.virtual_memory().available
    name = f"this machine, {cores} cores"
    if job.run.precision == "fp16":
        yield f"{name}: fp16 needs GPUs"
    elif needed > there:
        yield f"{name}: {needed / GIB:.1f} GiB are needed and {there / GIB:.1f} GiB free: {LESS_MEMORY}"
    elif sum(size.elements for sizes in job.sizes.values() for size in sizes) > TIMED_ELEMENTS:
        yield f"{name}: the networks are too large to be tried here"
    else:
        rate = cores / (core_seconds_per_row(job) + 1 / job.reading.rows_per_s)
        yield row(job, name, rate, needed / there)
