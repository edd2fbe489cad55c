"""The job's step time against a bare PyTorch loop on tensors in memory: same model, batch, threads.

    python benchmarks/train_overhead.py [--models ViT-B-32,examples/emoji/model.json] [--steps 16]

`ratio_bare` is the job's median step over the bare loop's, for the first model; at most 1.05 is the target.
The bare loop has no data to read: whatever the job spends on reading, decoding, engines, logging counts.  So that
it decodes while its steps are timed, the job gets more steps than are read, by what it may decode ahead (where that
is only a few steps; with a small batch of a large model decoding is half a percent of a step).  The two alternate,
the first model for `--rounds` rounds and the others for one; the ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from job import PHOTOGRAPHS, ROOT, finish, run_job
from photographs import write_shards

WARM_STEPS = 8  # of the job, and of the loop: for some 30 s helper processes of Ray still start
DECODED_AHEAD = 3072  # rows that may wait decoded for a worker with few decoders (lumiray.data.stream.Decoders)


def bare(model: str, batch: int, steps: int) -> float:
    """Median seconds per step of plain PyTorch: forward, softmax contrast, backward, fused AdamW."""
    import torch

    sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models")]
    from lumiray.registry import system as make_system

    torch.manual_seed(0)
    system = make_system("clip", model=model)
    network = system.build(system.stages()[0])["clip"].train()
    size = network.visual.image_size
    size = size if isinstance(size, int) else size[0]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-6, fused=True)
    images = torch.randn(batch, 3, size, size)
    texts = torch.randint(1, 49000, (batch, network.context_length))
    labels = torch.arange(batch)
    times = []
    for _ in range(steps):
        begin = time.perf_counter()
        image, text, scale = network(images, texts)
        logits = scale * image @ text.T
        cross_entropy = torch.nn.functional.cross_entropy
        loss = (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[WARM_STEPS:])


def compare(model: str, batch: int, steps: int, shards: str, rounds: int) -> dict[str, Any]:
    """Alternate the two, each in processes of its own; medians over the rounds, and the ratio of every round."""
    ours, theirs = [], []
    ahead = DECODED_AHEAD // batch
    job_steps = steps + (ahead if ahead <= steps else 0)
    for number in range(rounds):
        options = [
            *("--shards", shards, "--model", model, "--steps", str(job_steps), "--seed", str(number)),
            *("--global-batch-size", str(batch), "--log.every", "1", "--checkpoint.every", "1000000"),
            *("--lr", "1e-4", "--warmup", "0"),
        ]
        rows = run_job("overhead", options).rows[WARM_STEPS:steps]
        ours.append(statistics.median(row["step_s"] for row in rows))
        command = [sys.executable, __file__, "--bare", model, "--batch", str(batch), "--steps", str(steps)]
        theirs.append(float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))
        print(f"{model}: job {ours[-1]:.3f} s, bare {theirs[-1]:.3f} s per step of {batch}", flush=True)
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return {
        "job_step_s": round(statistics.median(ours), 4),
        "bare_step_s": round(statistics.median(theirs), 4),
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(one, 4) for one in ratios],
    }


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="ViT-B-32,examples/emoji/model.json")
    parser.add_argument("--batches", default="8,256", help="one per model")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3, help="of the first model")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.bare:
        print(bare(given.bare, given.batch, given.steps))
        return
    write_shards(PHOTOGRAPHS, 4000, (512, 384))
    rows: dict[str, dict[str, Any]] = {}
    first = given.models.split(",")[0]
    for model, batch in zip(given.models.split(","), given.batches.split(","), strict=True):
        path = str(ROOT / model) if model.endswith(".json") else model
        rounds = given.rounds if model == first else 1
        rows[model] = compare(path, int(batch), given.steps, str(PHOTOGRAPHS), rounds)
        print(json.dumps({model: rows[model]}), flush=True)
    finish({"benchmark": "train_overhead", "ratio_bare": rows[first]["ratio"], "models": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
