"""What a search costs beside its trials: N identical trials through it, against the same N runs as plain processes.

    python benchmarks/search_overhead.py [--trials 8] [--steps 40]

Both sides have the same Ray cluster of two cores up and run two at a time.  `ratio_pool` is the search's wall time over
that of the processes; `overhead_s` what a trial takes beside the steps that it logged, with a table of where it goes
(the marks of a run's start count from the moment at which the trial begins).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from job import ROOT, finish
from photographs import write_shards

AT_ONCE = 2
FOLDER = ROOT / ".cache" / "benchmarks" / "search"
SHARDS = FOLDER / "shards"


def command(job: str, output: Path, *options: str) -> list[str]:
    """A job's command line, with what all runs share."""
    shared = ("--shards", str(SHARDS), "--val-shards", str(SHARDS), "--warmup", "0", "--global-batch-size", "8")
    model = ("--model", str(ROOT / "examples" / "emoji" / "model.json"), "--log.every", "1", "--output", str(output))
    return [sys.executable, str(ROOT / "jobs" / job), *options, *shared, *model]


def run(words: list[str], address: str) -> None:
    """Run a command; stops the benchmark with its words if it fails."""
    environment = os.environ | {"RAY_ADDRESS": address}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)}\nended with {done.returncode}:\n{done.stdout}\n{done.stderr}")


def through_search(trials: int, steps: int, address: str) -> float:
    """Wall seconds of a search over the seed alone."""
    space = FOLDER / "space.yaml"
    space.write_text(json.dumps({"seed": {"int": [0, trials - 1]}}))
    study = ("--space", str(space), "--algorithm", "grid", "--trials", str(trials), "--metric", "text_to_image_R@1")
    begin = time.perf_counter()
    run(command("search.py", FOLDER / "study", "clip", *study, "--steps", str(steps)), address)
    return time.perf_counter() - begin


def as_processes(trials: int, steps: int, address: str) -> float:
    """Wall seconds of the same runs as jobs, two at a time, each with half of the cores."""
    begin = time.perf_counter()
    jobs = [
        command("clip_pretrain.py", FOLDER / "plain" / str(seed), "--seed", str(seed), "--steps", str(steps))
        for seed in range(trials)
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda words: run(words, address), jobs))
    return time.perf_counter() - begin


def steps_s(output: Path) -> float:
    """Seconds of a run's steps, as it logged them."""
    rows = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return sum(row["step_s"] for row in rows if row["kind"] == "train")


def marks(output: Path) -> dict[str, float]:
    """When the parts of a run's start were passed."""
    rows = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    start = next(row for row in rows if row["kind"] == "start")
    return {name: value for name, value in start.items() if name.endswith("_s") and name != "time_s"}


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40)
    given = parser.parse_args(arguments)
    if given.trials <= AT_ONCE:
        parser.error(
            f"--trials must be above {AT_ONCE}: the table is of trials that a process begins after another one"
        )
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    write_shards(SHARDS, 128, (512, 384))
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray

    quiet = {"include_dashboard": False, "logging_level": "error", "log_to_driver": False}
    address = ray.init(address="local", num_cpus=AT_ONCE, **quiet).address_info["gcs_address"]
    plain = as_processes(given.trials, given.steps, address)
    searched = through_search(given.trials, given.steps, address)
    ray.shutdown()
    runs = [FOLDER / "study" / "trials" / str(number) for number in range(given.trials)]
    training = statistics.fmean(map(steps_s, runs))
    passed = [marks(one) for one in runs[AT_ONCE:]]  # those that a process began which had run another one before
    table = {name: statistics.median(one[name] for one in passed) for name in passed[0]}
    before = 0.0
    for name, value in sorted(table.items(), key=lambda pair: pair[1]):
        print(f"{name[:-2].replace('_', ' '):28s} {value:7.2f} s   (+{value - before:.2f})")
        before = value
    finish(
        {
            "benchmark": "search_overhead",
            "ratio_pool": round(searched / plain, 3),
            "overhead_s": round(searched * AT_ONCE / given.trials - training, 2),
            "search_s": round(searched, 1),
            "processes_s": round(plain, 1),
            "training_s": round(training, 2),
        }
    )


if __name__ == "__main__":
    main(sys.argv[1:])
