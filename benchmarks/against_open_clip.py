"""Samples per second of this job against open_clip's own training script.

    python benchmarks/against_open_clip.py [--rounds 3]

Same shards (real photographs, 512 x 384 JPEG), model, batch, cores and precision.  Two models: a small one, where
decoding is the limit (`ratio_data_bound`, at least 1.2 is the target), and a large one, where it is the network
(`ratio_compute_bound`, at least 1.0).  The peer runs at its best setting of a printed sweep over loader workers
and torch threads; then the two alternate, and medians and spreads are printed.  Both are measured alike: rows
between the end of the warm-up steps and the last step, over the time between these two.  The job starts to decode
before its networks are built, so its warm-up ends, and its count, at steps that had to wait for data: between them
it decoded what it used (`steady_rate`).  Where it never waits it is not bound by data, and a note says so.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from job import PHOTOGRAPHS, ROOT, finish, run_job
from photographs import write_shards

SMALL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 224, "layers": 1, "width": 64, "head_width": 32, "patch_size": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}
# open_clip_train 3.3 stumbles over the mark that webdataset 1.0 sets at the end of a shard; without it, it is as it was
PEER = (
    "import sys, torch, open_clip; torch.set_num_threads(int(sys.argv[1])); "
    "open_clip.add_model_config(sys.argv[2]); "
    "import functools, open_clip_train.data as data; "
    "data.tar_file_expander = functools.partial(data.tar_file_expander, eof_value=None); "
    "from open_clip_train.main import main; main(sys.argv[3:])"
)

BATCHES_AHEAD = 2  # of each of the peer's loader workers (PyTorch's prefetch_factor)
WAITED = 0.1  # share of a step's time from which it counts as waiting for data
STEADY_STEPS = 10  # that a rate between waiting steps is taken over, at least


@dataclass(frozen=True)
class Work:
    """What both sides do: a model, a batch, and how many steps are warm-up and measured.

    Args:
        model: a name that open_clip knows once `config` is registered.
        job_warm_steps: of the job: where decoding is the limit, it first uses up what it decoded before its first step,
            and then finds out how many cores to leave to the decoders.
        job_steps: of the job, where decoding is the limit.
    """

    model: str
    config: Path
    batch: int
    warm_steps: int
    steps: int
    job_warm_steps: int
    job_steps: int | None = None


def peer_rate(work: Work, workers: int, threads: int) -> float:
    """Samples per second of open_clip_train, from the batch times of its own log.

    Its loader's workers deliver a batch each at about the same time: warm-up and measure are whole such rounds.
    Each has two batches ready before the first step, which the warm-up uses up.
    """
    rounds = max(BATCHES_AHEAD + 1, -(-work.warm_steps // workers))
    warm, steps = rounds * workers, -(-work.steps // workers) * workers
    logs = ROOT / ".cache" / "benchmarks" / "peer"
    shutil.rmtree(logs, ignore_errors=True)
    shards = sorted(PHOTOGRAPHS.glob("*.tar"))
    pattern = f"{PHOTOGRAPHS}/{{{shards[0].stem}..{shards[-1].stem}}}.tar"
    options = [
        *(
            "--train-data",
            pattern,
            "--dataset-type",
            "webdataset",
            "--train-num-samples",
            str(work.batch * (warm + steps)),
        ),
        *("--dataset-resampled", "--batch-size", str(work.batch), "--workers", str(workers)),
        *("--model", work.model, "--precision", "fp32", "--device", "cpu", "--epochs", "1"),
        *("--lr", "1e-4", "--warmup", "1", "--log-every-n-steps", "1", "--logs", str(logs), "--name", "peer"),
    ]
    command = [sys.executable, "-c", PEER, str(threads), str(work.config), *options]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stderr[-3000:]}")
    lines = [line for line in done.stderr.splitlines() if "Train Epoch" in line and "Data (t)" in line]
    batch_times = [work.batch / float(found[1]) for line in lines if (found := re.search(r"([\d.e+]+)/s,", line))]
    if len(batch_times) < warm + steps:
        sys.exit(f"open_clip_train logged only {len(batch_times)} steps: {done.stderr[-2000:]}")
    measured = batch_times[warm : warm + steps]
    return work.batch * len(measured) / sum(measured)


def our_rate(work: Work) -> float:
    """Samples per second of jobs/clip_pretrain.py, from its own metrics."""
    model = work.model if work.model != work.config.stem else str(work.config)
    options = [
        *("--shards", str(PHOTOGRAPHS), "--model", model),
        *("--global-batch-size", str(work.batch), "--steps", str(work.job_warm_steps + (work.job_steps or work.steps))),
        *("--lr", "1e-4", "--warmup", "1", "--log.every", "1", "--checkpoint.every", "1000000"),
    ]
    rows = run_job("against-open-clip", options).rows[work.job_warm_steps :]
    rate, waited = steady_rate(rows, work.batch)
    if work.job_steps and not waited:
        print(f"  note: {work.model}: the job hardly waited for data; what it decoded ahead may be in its rate")
    return rate


def steady_rate(rows: list[dict[str, float]], batch: int) -> tuple[float, bool]:
    """Samples per second from the first to the last step that waited for data, or over all rows if hardly any did.

    A step that waits finds nothing decoded ahead, so that between two of them as many rows are decoded as used.

    Returns:
        The rate, and whether it is one between waiting steps.
    """
    waiting = [number for number, row in enumerate(rows) if row["data_wait_share"] > WAITED]
    bound = len(waiting) > 1 and waiting[-1] - waiting[0] >= STEADY_STEPS
    measured = rows[waiting[0] + 1 : waiting[-1] + 1] if bound else rows
    return batch * len(measured) / sum(row["step_s"] for row in measured), bound


def sweep(work: Work, choices: list[tuple[int, int]]) -> tuple[int, int]:
    """The peer's fastest (workers, threads), every choice printed."""
    rates = {}
    for workers, threads in choices:
        rates[workers, threads] = peer_rate(work, workers, threads)
        print(
            f"  open_clip_train, {workers} workers, {threads} threads: {rates[workers, threads]:.1f}/s",
            flush=True,
        )
    return max(rates, key=lambda choice: rates[choice])


def compare(work: Work, rounds: int, choices: list[tuple[int, int]]) -> dict[str, object]:
    """Sweep the peer, then alternate; the median of the rounds' ratios, and every round's values."""
    workers, threads = sweep(work, choices)
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(rounds):
        turns = [
            lambda: theirs.append(peer_rate(work, workers, threads)),
            lambda: ours.append(our_rate(work)),
        ]
        for turn in turns if number % 2 == 0 else reversed(turns):  # neither side is always the first
            turn()
        print(f"{work.model}: {ours[-1]:.1f}/s against {theirs[-1]:.1f}/s", flush=True)
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    for name, values in (("job", ours), ("open_clip_train", theirs), ("ratio", ratios)):
        print(f"{work.model}: {name} median {statistics.median(values):.4g}, {min(values):.4g} to {max(values):.4g}")
    return {
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(one, 3) for one in ratios],
        "ours_per_s": [round(one, 1) for one in ours],
        "open_clip_per_s": [round(one, 1) for one in theirs],
        "open_clip_setting": {"workers": workers, "threads": threads},
    }


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small-steps", type=int, default=30)
    parser.add_argument("--job-warm-steps", type=int, default=60, help="of the job with the small model, see `Work`")
    parser.add_argument("--job-small-steps", type=int, default=60, help="of the job, see `steady_rate`")
    parser.add_argument("--large-steps", type=int, default=4)
    parser.add_argument("--large-model", default="ViT-B-32")
    parser.add_argument("--large-batch", type=int, default=8)
    given = parser.parse_args(arguments)
    write_shards(PHOTOGRAPHS, 4000, (512, 384))
    config = ROOT / ".cache" / "benchmarks" / "small-clip.json"
    config.write_text(json.dumps(SMALL))
    small = Work("small-clip", config, 128, 5, given.small_steps, given.job_warm_steps, given.job_small_steps)
    cores = os.cpu_count() or 1
    warm = (BATCHES_AHEAD + 1) * cores  # as many steps as the peer's loader makes of its own, with a worker per core
    large = Work(given.large_model, config, given.large_batch, 2, given.large_steps, warm)
    rows = {
        "data_bound": compare(
            small, given.rounds, [(max(1, cores // 2), 1), (cores, 1), (cores, cores), (2 * cores, 1)]
        ),
        "compute_bound": compare(large, given.rounds, [(1, cores), (cores, cores)]),
    }
    finish(
        {
            "benchmark": "against_open_clip",
            "ratio_data_bound": rows["data_bound"]["ratio"],
            "ratio_compute_bound": rows["compute_bound"]["ratio"],
            **rows,
        }
    )


if __name__ == "__main__":
    main(sys.argv[1:])
