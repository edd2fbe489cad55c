"""A run on a cluster that is submitted, stopped, submitted again and cut, and all that is seen of it from outside."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from head import Head
from tests.conftest import TINY
from tests.house.sources import ROOT

from lumiray.run_status import run_status

STEPS = 5000  # far more than are made
OPTIONS = (
    *("--model", TINY, "--global-batch-size", "32", "--micro-batch-size", "8", "--steps", str(STEPS)),
    *("--warmup", "6", "--log.every", "1", "--checkpoint.every", "100000", "--retries", "0"),
)


@dataclass
class Told:
    """All that was seen of the run from outside.

    Args:
        output: the run's folder.
        submitted: exit code and words of the first `ray job submit`.
        environment: of the first job's driver, as the kernel has it.
        metrics: what the Prometheus endpoint served while it ran.
        status: what `lumiray status` said, by when.
        stopped: job information, log and seconds to the end of the job that `ray job stop` ended.
        cut: the same of the job whose driver got SIGTERM.
    """

    output: Path
    submitted: tuple[int, str] = (1, "")
    environment: str = ""
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    status: dict[str, str] = field(default_factory=dict)
    stopped: tuple[dict[str, Any], str, float] = ({}, "", 0.0)
    cut: tuple[dict[str, Any], str, float] = ({}, "", 0.0)


def tell(head: Head, shards: Path, output: Path) -> Told:
    """Submit a run, look at it, stop it, submit it again, and cut its driver."""
    run = Told(output)
    options = (*OPTIONS, "--shards", str(shards), "--workers", "2", "--output", str(output))
    run.submitted = head.submit("first", ROOT, "python", "jobs/clip_pretrain.py", *options)
    assert run.submitted[0] == 0, run.submitted[1]
    until_logged(head, "first", "step 3/")
    run.environment = Path(f"/proc/{driver_of(head, 'first')}/environ").read_text()
    run.metrics = scraped(head)
    run.status["running"] = run_status(str(run.output))
    begin = time.monotonic()
    head.ray("job", "stop", "first", "--address", head.address)
    found = head.until("first", ("STOPPED", "FAILED", "SUCCEEDED"))
    run.stopped = (found, head.logs("first"), time.monotonic() - begin)
    run.status["stopped"] = run_status(str(run.output))

    code, words = head.submit("again", ROOT, "jobs/clip_pretrain.py", *options)  # executable
    assert code == 0, words
    until_logged(head, "again", "loss", after="resumed at step")
    begin = time.monotonic()
    os.kill(driver_of(head, "again"), signal.SIGTERM)
    found = head.until("again", ("STOPPED", "FAILED", "SUCCEEDED"))
    run.cut = (found, head.logs("again"), time.monotonic() - begin)
    run.status["cut"] = run_status(str(run.output))
    return run


def driver_of(head: Head, name: str) -> int:
    """Process of a job's driver."""
    return int(head.job(name)["driver_info"]["pid"])


def until_logged(head: Head, name: str, *words: str, after: str = "", seconds: float = 300.0) -> None:
    """Return when a running job has printed one of some words, behind others."""
    begin = time.monotonic()
    while True:
        text = head.logs(name)
        if after in text and any(one in text[text.find(after) :] for one in words):
            return
        state = head.job(name)["status"]
        assert state in ("PENDING", "RUNNING") and time.monotonic() - begin < seconds, f"{state}\n{text}"
        time.sleep(0.5)


def scraped(head: Head, seconds: float = 60.0) -> dict[str, dict[str, float]]:
    """What the endpoint serves once the run's numbers have come there."""
    begin = time.monotonic()
    while "ray_lumiray_slowest_rank" not in (found := head.scraped()):
        assert time.monotonic() - begin < seconds, sorted(found)
        time.sleep(0.5)
    return found
