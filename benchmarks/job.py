"""Running a job from a benchmark, and reading what it measured about itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PHOTOGRAPHS = ROOT / ".cache" / "benchmarks" / "photographs"


@dataclass(frozen=True)
class Measured:
    """One run of a job: its logged training rows, its start-up marks, and its wall time."""

    rows: list[dict[str, float]]
    marks: dict[str, float]
    wall_s: float

    def step_s(self, skip: int) -> float:
        """Median seconds per step, the first `skip` logged rows left out."""
        times = sorted(row["step_s"] for row in self.rows[skip:])
        return times[len(times) // 2]


def run_job(name: str, options: list[str], job: str = "clip_pretrain.py") -> Measured:
    """Run a job with fresh output; stops the benchmark with the job's words if it fails."""
    output = ROOT / ".cache" / "benchmarks" / "runs" / name
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, str(ROOT / "jobs" / job), *options, "--output", str(output)]
    begin = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"RAY_AUTH_MODE": "disabled"}, check=False
    )
    wall = time.perf_counter() - begin
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    training = [row for row in rows if row["kind"] == "train"]
    marks = next((row for row in rows if row["kind"] == "start"), {})
    return Measured(training, marks, wall)


def finish(result: dict[str, object]) -> None:
    """Print the benchmark's last line."""
    print(json.dumps(result))
