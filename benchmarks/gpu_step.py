"""The job's step in bf16 on one GPU against the same step in bare open_clip: samples per second and MFU.

    python benchmarks/gpu_step.py [--models ViT-B-32,ViT-L-14] [--batches 512,128] [--rounds 1]

The job runs with one worker on shards of small photographs, so that decoding is not what is measured; the share of
time that it waits for data stands in its row.  The bare step has its batch on the GPU from the start and is
open_clip's in form: its model, its loss, autocast as `open_clip_train` sets it, AdamW (fused, as the job's), the
clamp of the logit scale.  It runs in each of open_clip's bf16 precisions, and `ratio_<model>` is the job's samples
per second over those of the fastest.  Both sides count from the end of their warm-up, are read every ten steps, and
give medians.  Without a GPU it says so, and that is its result.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from job import ROOT, finish, run_job
from photographs import write_shards

SHARDS = ROOT / ".cache" / "benchmarks" / "photographs-small"
PRECISIONS = ("amp_bf16", "bf16", "pure_bf16")  # fp32 weights under autocast; bf16 weights; bf16 everywhere
WINDOW = 10  # steps between two readings of the clock
WARM_WINDOWS = 3


def bare(model_name: str, batch: int, precision: str, windows: int, device: str = "cuda") -> dict[str, Any]:
    """Plain PyTorch around open_clip: median samples per second, MFU where the device's peak is known, memory."""
    import open_clip
    import torch

    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = True  # as open_clip_train sets it
    torch.backends.cudnn.benchmark = True
    on_gpu = device == "cuda"
    model = open_clip.create_model(model_name, precision=precision, device=device, output_dict=True).train()
    loss_of = open_clip.ClipLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, betas=(0.9, 0.98), eps=1e-6, fused=on_gpu)
    size = model.visual.image_size
    size = size if isinstance(size, int) else size[0]
    dtype = open_clip.get_input_dtype(precision) or torch.float32
    images = torch.randn(batch, 3, size, size, device=device).to(dtype)
    texts = torch.randint(1, 49000, (batch, model.context_length), device=device)

    def step() -> None:
        optimizer.zero_grad()
        autocast = torch.autocast(device, torch.bfloat16) if precision == "amp_bf16" else nullcontext()
        with autocast:
            loss = loss_of(**model(images, texts))
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))

    times = []
    for _ in range(WARM_WINDOWS + windows):
        begin = time.perf_counter()
        for _ in range(WINDOW):
            step()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    rate = WINDOW * batch / statistics.median(times[WARM_WINDOWS:])
    memory = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None
    return {"samples_per_s": rate, "mfu": utilisation(model_name, rate), "memory_gb": memory}


def utilisation(model_name: str, samples_per_s: float) -> float | None:
    """MFU by the count of operations that the job uses, so that both sides are told by one measure."""
    import torch

    if not torch.cuda.is_available():
        return None
    sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models")]
    from lumiray.registry import system as make_system
    from lumiray.train.flops import model_flops_utilisation

    system = make_system("clip", model=model_name)
    stage = system.stages()[0]
    system.build(stage)
    return model_flops_utilisation(system.flops_per_sample(stage), samples_per_s, 1)


def bare_in_fresh_process(model: str, batch: int, precision: str, windows: int) -> dict[str, Any]:
    """`bare` in a process of its own; ends the benchmark with the process's words if it fails."""
    command = [sys.executable, __file__, "--bare", model, precision, "--batches", str(batch), "--windows", str(windows)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def job(model: str, batch: int, windows: int) -> dict[str, Any]:
    """The job's numbers from its own log: medians over the windows after the warm-up."""
    options = [
        *("--shards", str(SHARDS), "--model", model, "--workers", "1", "--device", "gpu", "--precision", "bf16"),
        *("--global-batch-size", str(batch), "--steps", str((WARM_WINDOWS + windows) * WINDOW)),
        *("--log.every", str(WINDOW), "--checkpoint.every", "1000000", "--lr", "1e-6", "--warmup", "0"),
    ]
    rows = run_job("gpu-step", options).rows[WARM_WINDOWS:]
    names = ("samples_per_s", "mfu", "memory_gb", "data_wait_share")
    return {name: statistics.median(row[name] for row in rows) if name in rows[0] else None for name in names}


def compare(model: str, batch: int, windows: int, rounds: int) -> dict[str, Any]:
    """Alternate the job and every bare precision; medians over the rounds of each number."""
    seen: dict[str, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for name in ("job", *PRECISIONS):
            if name == "job":
                numbers = job(model, batch, windows)
            else:
                numbers = bare_in_fresh_process(model, batch, name, windows)
            seen.setdefault(name, []).append(numbers)
            share = "" if numbers["mfu"] is None else f", MFU {100 * numbers['mfu']:.1f}%"
            waiting = f", waiting {100 * numbers['data_wait_share']:.0f}%" if "data_wait_share" in numbers else ""
            print(f"{model} x {batch}, {name:9s} {numbers['samples_per_s']:9.1f}/s{share}{waiting}", flush=True)
    medians = {name: _medians(rows) for name, rows in seen.items()}
    fastest = max(PRECISIONS, key=lambda name: medians[name]["samples_per_s"])
    ratio = medians["job"]["samples_per_s"] / medians[fastest]["samples_per_s"]
    rates = {name: [round(row["samples_per_s"], 1) for row in rows] for name, rows in seen.items()}
    return {"batch": batch, "ratio": round(ratio, 4), "fastest_bare": fastest, "rounds_per_s": rates, **medians}


def _medians(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: None if value is None else round(statistics.median(row[name] for row in rows), 4)
        for name, value in rows[0].items()
    }


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--models", default="ViT-B-32,ViT-L-14")
    parser.add_argument("--batches", default="512,128", help="one per model")
    parser.add_argument("--windows", type=int, default=6, help=f"measured, of {WINDOW} steps each")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--bare", nargs=2, metavar=("MODEL", "PRECISION"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    batches = [int(one) for one in given.batches.split(",")]
    if given.bare:
        print(json.dumps(bare(given.bare[0], batches[0], given.bare[1], given.windows)))
        return
    import torch

    if not torch.cuda.is_available():
        print("gpu_step needs a GPU; this machine has none")
        finish({"benchmark": "gpu_step", "skipped": "no GPU"})
        return
    write_shards(SHARDS, 4000, (224, 224))
    models = {
        model: compare(model, batch, given.windows, given.rounds)
        for model, batch in zip(given.models.split(","), batches, strict=True)
    }
    ratios = {f"ratio_{name.lower().replace('-', '_')}": row["ratio"] for name, row in models.items()}
    finish({"benchmark": "gpu_step", "device": torch.cuda.get_device_name(), **ratios, "models": models})


if __name__ == "__main__":
    main(sys.argv[1:])
