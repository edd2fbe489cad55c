"""Slopes of the platform, measured on this machine: what one more sample, byte or shard costs."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import many_shards
import photographs
from job import PHOTOGRAPHS, ROOT
from scale_model import Slopes, Work

FEW, MANY = 1_000, 50_000  # shards, between which the driver's start and memory are compared
PLAN_SHARDS, PLAN_ROWS = 1_000_000, 10_000_000_000
BLOCK, BLOCKS = 32 << 20, 24  # bytes of what goes through the object store at once, and how often
WRITTEN = 512 << 20  # bytes of a checkpoint's file
ROWS = 512  # photographs to be decoded


def work_of(model: str, slice_rows: int) -> tuple[Work, float]:
    """What one sample of a CLIP asks for, and the seconds of one core that decode it.

    Args:
        model: name of an open_clip configuration.
        slice_rows: as of the job's --data.slice-rows.
    """
    from lumiray.command import parse
    from lumiray.train.estimate import measure, saved_bytes

    shards = PHOTOGRAPHS / "scale"
    photographs.write_shards(shards, ROWS, (512, 384))
    options = ("--model", model, "--shards", str(shards), "--global-batch-size", "256", "--epochs", "1")
    found = measure(parse("clip", (*options, "--warmup", "0", "--output", str(PHOTOGRAPHS / "no-run"))).job)
    if found.flops is None:
        sys.exit(f"the arithmetic of {model} is not known: {found.obstacle}")
    stored = sum(one.stat().st_size for one in shards.glob("*.tar")) / ROWS
    return Work(
        flops=found.flops,
        parameters=sum(size.elements for sizes in found.sizes.values() for size in sizes if size.trained),
        features=found.system.networks["clip"].text_projection.shape[-1],
        checkpoint_bytes=saved_bytes(found),
        stored_bytes=stored,
        decoded_bytes=found.reading.row_bytes,
        slice_rows=slice_rows,
    ), 1 / found.reading.rows_per_s


def slopes(decode_s: float, batch: int) -> Slopes:
    """Everything else, one after the other.

    Args:
        batch: the global batch.
    """
    start_s, start_bytes = driver()
    return Slopes(decode_s, store_bytes_per_s(), start_s, start_bytes, plan_s(batch), write_bytes_per_s())


def driver() -> tuple[float, float]:
    """Seconds and bytes of a driver for one shard more."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for count in (FEW, MANY):
            many_shards.write_shards(Path(folder) / str(count), count)
            found.append(many_shards.measure(Path(folder) / str(count)))
    few, many = found
    more = MANY - FEW
    return (many["start_s"] - few["start_s"]) / more, 1e6 * (many["memory_mb"] - few["memory_mb"]) / more


def plan_s(batch: int) -> float:
    """Seconds of one core for the rows of a global batch, of ten billion in a million shards."""
    sizes = ("--rows", str(PLAN_ROWS), "--shards", str(PLAN_SHARDS), "--batch", str(batch))
    command = [sys.executable, str(Path(__file__).with_name("plan.py")), *sizes]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["ms_per_batch"]) / 1000


def store_bytes_per_s() -> float:
    """From an actor's memory through the object store into this process' memory, one block after the other."""
    import numpy as np
    import ray

    @ray.remote
    class Source:
        def __init__(self) -> None:
            self._block = np.ones(BLOCK, np.uint8)

        def block(self) -> np.ndarray:
            return self._block

    ray.init(address="local", include_dashboard=False, log_to_driver=False, object_store_memory=1 << 30)
    try:
        source, own = Source.remote(), np.empty(BLOCK, np.uint8)
        np.copyto(own, ray.get(source.block.remote()))
        begin = time.perf_counter()
        for _ in range(BLOCKS):
            np.copyto(own, ray.get(source.block.remote()))
        return BLOCK * BLOCKS / (time.perf_counter() - begin)
    finally:
        ray.shutdown()


def write_bytes_per_s() -> float:
    """A checkpoint's file with its checksum, to this machine's disk."""
    import torch

    from lumiray.train.checkpoint_files import write_tensors

    with tempfile.TemporaryDirectory(dir=ROOT / ".cache") as folder:
        tensors = [("weights", torch.rand(WRITTEN // 4))]
        begin = time.perf_counter()
        write_tensors(f"{folder}/weights.safetensors", tensors)
        return WRITTEN / (time.perf_counter() - begin)
