"""What a run's folder says about how the run is: one small file, written at every start and at the end.

Between the two the rows of metrics.jsonl and the checkpoints say how far it is; `lumiray.run_status` reads all of them.
"""

from __future__ import annotations

import json
import time
from typing import Any

from lumiray.storage import NotThere, join, read_bytes, write_atomically
from lumiray.train.chain import STATUS

RUNNING, DONE, INTERRUPTED, FAILED = "running", "done", "interrupted", "failed"


def read_status(output: str) -> dict[str, Any]:
    """What was written last; empty where nothing was, or something else."""
    try:
        found = json.loads(read_bytes(join(output, STATUS)))
    except (NotThere, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def begin(output: str, step: int) -> int:
    """Say that workers train from a step on.

    Returns:
        How often workers of this run were started again, by its driver or by a new command.
    """
    restarts = int(read_status(output).get("restarts", -1)) + 1
    _write(output, {"state": RUNNING, "step": step, "metrics": {}, "restarts": restarts})
    return restarts


def end(output: str, done: bool, step: int, metrics: dict[str, float]) -> None:
    """Say that the run is done, or interrupted with a checkpoint of this step."""
    before = read_status(output)
    state = DONE if done else INTERRUPTED
    _write(output, {"state": state, "step": step, "metrics": metrics, "restarts": before.get("restarts", 0)})


def fail(output: str, reason: str) -> None:
    """Say why a run that had begun cannot go on."""
    before = {"step": 0, "metrics": {}, "restarts": 0} | read_status(output)
    _write(output, before | {"state": FAILED, "reason": reason})


def _write(output: str, status: dict[str, Any]) -> None:
    status |= {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    write_atomically(join(output, STATUS), json.dumps(status, indent=1).encode())
