"""A run that is killed at chosen steps, started again on other numbers of workers, and looked at afterwards.

What counts is what the weights have seen: a step's rows are those that the last group of workers to make it has
received, read from the pixels of the tensors in its forward passes.  All that a killed group did past its last
checkpoint is void.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

HERE = Path(__file__).resolve().parent
THIRD_PARTY = str(HERE.parent / "data" / "third_party")
COUNTS, ROWS = (167, 201, 132), 500
BAD = frozenset(range(17, ROWS, 31))
MICRO_BATCHES, MICRO_BATCH = 6, 2  # divide over one, two, three and six workers
BATCH = MICRO_BATCHES * MICRO_BATCH
STEPS_PER_EPOCHS = 125  # of three epochs: 1500 rows
PAUSE_S = 0.05
WORKER, DRIVER, DECODER, PIPELINE = VICTIMS = ("worker", "driver", "decoder", "pipeline")


@dataclass
class RecordedRun:
    """One run of 125 steps, which are three epochs.

    Args:
        base: an empty folder.
        address: of the Ray cluster.
    """

    base: Path
    address: str
    kills: list[dict[str, Any]] = field(default_factory=list)
    job: subprocess.Popen[str] | None = None

    def __post_init__(self) -> None:
        sys.path.insert(0, THIRD_PARTY)
        from numbered.shards import write_shards

        sys.path.remove(THIRD_PARTY)
        write_shards(self.base / "shards", COUNTS, BAD)
        (self.base / "record").mkdir()

    def start(self, workers: int) -> None:
        """Start the job, or go on with it."""
        options = {
            "--shards": self.base / "shards",
            "--output": self.base / "run",
            "--record": self.base / "record",
            "--pause-s": PAUSE_S,
            "--steps": STEPS_PER_EPOCHS,
            "--global-batch-size": BATCH,
            "--micro-batch-size": MICRO_BATCH,
            "--workers": workers,
            "--data.slice-rows": 4,
            "--data.group-rows": 64,
            "--data.bad-rows-limit": 0.5,
            "--checkpoint.every": 5,
            "--log.every": 5,
            "--retries": 100,
        }
        command = [sys.executable, str(HERE / "job.py"), *(str(one) for pair in options.items() for one in pair)]
        self.job = subprocess.Popen(
            command,
            stdout=(self.base / "log.txt").open("a"),
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"RAY_ADDRESS": self.address},
        )

    def records(self) -> list[dict[str, Any]]:
        """All micro-batches that any worker has made, as far as they are written."""
        lines = (line for file in (self.base / "record").iterdir() for line in file.read_text().splitlines(True))
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait_for(self, step: int) -> dict[str, Any] | None:
        """A micro-batch of a group that works now and has come so far; None if the run ends before."""
        assert self.job is not None
        while self.job.poll() is None:
            newest = max(self.records(), key=lambda one: one["time"], default=None)
            if newest is not None and newest["step"] >= step and psutil.pid_exists(newest["process"]):
                return newest
            time.sleep(0.05)
        return None

    def kill(self, victim: str, step: int, workers: int) -> bool:
        """SIGKILL one of the run's processes when it has come to a step; False if it ended before.

        Args:
            workers: with which the run goes on where its driver is killed.
        """
        while (newest := self.wait_for(step)) is not None:
            try:
                os.kill(self._process(victim, newest), signal.SIGKILL)
            except (ProcessLookupError, psutil.NoSuchProcess):  # it has ended by itself, as decoders do
                time.sleep(0.05)
                continue
            self.kills.append({"victim": victim, "step": newest["step"], "workers": workers})
            if victim == DRIVER:
                assert self.job is not None
                self.job.wait()
                self.start(workers)
            return True
        return False

    def _process(self, victim: str, newest: dict[str, Any]) -> int:
        """The process of a victim, as a micro-batch tells."""
        if victim == DRIVER:
            assert self.job is not None
            return self.job.pid
        if victim == DECODER:
            return int(newest["decoders"][-1])
        pipelines = self._pipelines(newest["process"]) if victim == PIPELINE else iter(())
        return next(pipelines, int(newest["process"]))

    def _pipelines(self, worker: int) -> Iterator[int]:
        """Processes of pipelines on the node of a worker."""
        raylet = psutil.Process(worker).parent()
        for one in raylet.children() if raylet else ():
            if "".join(one.cmdline()).startswith("ray::Pipeline"):
                yield one.pid

    def finish(self) -> str:
        """Wait for the end, and return what was printed.

        Raises:
            AssertionError: the job did not end well.
        """
        assert self.job is not None
        code = self.job.wait()
        text = (self.base / "log.txt").read_text()
        assert code == 0, text[-3000:]
        return text

    def history(self) -> list[np.ndarray]:
        """Rows of each finished step, sorted.

        Raises:
            AssertionError: a step is not whole.
        """
        steps: dict[int, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
        for one in self.records():
            steps[one["step"]][one["group"]].append(one)
        found = []
        for step in range(STEPS_PER_EPOCHS):
            last = max(steps[step].values(), key=lambda records: max(one["time"] for one in records))
            assert len(last) == MICRO_BATCHES, f"step {step} was made of {len(last)} micro-batches"
            found.append(np.sort(np.concatenate([one["rows"] for one in last])))
        assert not [step for step in steps if step >= STEPS_PER_EPOCHS]
        return found

    def check(self) -> dict[str, int]:
        """Every row once in every epoch, but for those that cannot be used, in whose place others come.

        Returns:
            what was counted.

        Raises:
            AssertionError: a row is missing, or came twice.
        """
        from lumiray.data.plan import Plan, PlanSettings, Source

        history = self.history()
        rows = Counter(np.concatenate(history).tolist())
        epochs = STEPS_PER_EPOCHS * BATCH // ROWS
        good = set(range(ROWS)) - BAD
        assert set(rows) == good
        assert min(rows.values()) >= epochs
        assert sum(rows.values()) - epochs * len(good) == epochs * len(BAD)  # the substitutes
        plan = Plan((Source("shards", ROWS),), PlanSettings(4, 64), BATCH, MICRO_BATCH, seed=0)
        for step, received in enumerate(history):  # those of an uncut run, wherever it was cut
            planned = Counter(row for row in plan.batch(step).row.tolist() if row not in BAD)
            assert not planned - Counter(received.tolist()), step
        told = (json.loads(line) for line in (self.base / "run" / "bad_rows.jsonl").read_text().splitlines())
        starts = np.cumsum((0, *COUNTS))
        replaced = Counter(int(starts[int(one["shard"][:5])]) + one["row"] for one in told)
        assert set(replaced) == BAD
        assert min(replaced.values()) >= epochs  # more where a bad row was drawn as a substitute
        made = {(one["step"], one["group"]) for one in self.records()}
        groups = len({group for _, group in made})
        return {"kills": len(self.kills), "groups": groups, "steps_made": len(made), "steps": STEPS_PER_EPOCHS}
