"""Seconds from the command to the first finished step, and where they go.

    python benchmarks/first_step.py [--rounds 3] [--workers 1]

Local, warm file cache: one run is thrown away first, which also leaves the shards' index.  `first_step_s` is the
median; under 40 is the target on two cores.  The table's times come from the job itself, in the order in which
they pass.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from job import PHOTOGRAPHS, ROOT, finish, run_job
from photographs import write_shards


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(ROOT / "examples" / "emoji" / "model.json"))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args(arguments)
    write_shards(PHOTOGRAPHS, 4000, (512, 384))
    options = [
        *("--shards", str(PHOTOGRAPHS), "--model", given.model, "--steps", "2", "--warmup", "0"),
        *("--global-batch-size", str(given.batch), "--workers", str(given.workers), "--log.every", "1"),
    ]
    runs = [run_job("first-step", options) for _ in range(given.rounds + 1)][1:]
    runs.sort(key=lambda run: run.marks["first_step_s"])
    middle = runs[len(runs) // 2].marks
    table = {name: value for name, value in middle.items() if name.endswith("_s")}
    before = 0.0
    for name, value in sorted(table.items(), key=lambda pair: pair[1]):
        print(f"{name[:-2].replace('_', ' '):28s} {value:7.2f} s   (+{value - before:.2f})")
        before = value
    finish(
        {
            "benchmark": "first_step",
            "first_step_s": round(middle["first_step_s"], 2),
            "spread_s": [round(run.marks["first_step_s"], 2) for run in runs],
            "passed_s": {name: round(value, 2) for name, value in table.items()},
        }
    )


if __name__ == "__main__":
    main(sys.argv[1:])
