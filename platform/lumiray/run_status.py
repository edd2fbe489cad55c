"""How a run is, told from its output folder alone, local or s3://: nothing of it needs to be alive."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lumiray.errors import UserError
from lumiray.storage import NotThere, exists, join, list_entries, modified, read_bytes

SILENT_S = 120.0  # without news, and for that many logged rows: files on S3 are renewed every half minute
SILENT_ROWS = 5


@dataclass(frozen=True)
class Seen:
    """What a run's folder holds.

    Args:
        told: the run's description (run.json).
        status: status.json, empty where there is none yet.
        rows: logged rows of training, the oldest first.
        checkpoint: (step, seconds since it was complete) of the newest one, if any.
        silent_s: since anything was written.
    """

    told: Mapping[str, Any]
    status: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    checkpoint: tuple[int, float] | None
    silent_s: float


def run_status(run: str) -> str:
    """A few lines about a run, or about each stage of one that has several.

    Raises:
        UserError: there is no run.
    """
    names = [""] if exists(join(run, "run.json")) else [one.name for one in list_entries(run) if one.folder]
    found = [join(run, name) if name else run for name in names if exists(join(run, name, "run.json"))]
    if not found:
        raise UserError(f"{run}: there is no run. Give the folder that a training job has as --output.")
    return "\n\n".join("\n".join([one, *(f"  {line}" for line in described(look(one)))]) for one in found)


def look(run: str) -> Seen:
    """Read what a run's folder holds."""
    from lumiray.train.status import read_status

    now = time.time()
    files = [join(run, name) for name in ("run.json", "status.json", "metrics.jsonl")]
    newest = max(modified(one) for one in files if exists(one))
    told = json.loads(read_bytes(files[0]))
    checkpoint = _newest_checkpoint(run, now)
    silent = now - newest
    if checkpoint:
        silent = min(silent, checkpoint[1])
    return Seen(told, read_status(run), _rows(files[2]), checkpoint, max(0.0, silent))


def _rows(place: str) -> list[dict[str, Any]]:
    rows = []
    for line in read_bytes(place).decode(errors="replace").splitlines() if exists(place) else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # cut by a kill
        if row.get("kind") == "train":
            rows.append(row)
    return rows


def _newest_checkpoint(run: str, now: float) -> tuple[int, float] | None:
    from lumiray.train.manifest import NAME, step_folders

    for folder in step_folders(run):
        try:
            return int(folder.rpartition("-")[2]), max(0.0, now - modified(join(folder, NAME)))
        except NotThere:
            continue  # being written, or cut by a kill
    return None


def described(seen: Seen) -> Iterator[str]:
    """Lines that say state, step, speed, age of the last checkpoint, restarts, and when there was news."""
    from lumiray.train.progress import duration

    told, last = seen.told["identity"], seen.rows[-1] if seen.rows else None
    total = int(seen.told["total_steps"])
    step = max(int(last["step"]) if last else 0, int(seen.status.get("step", 0)))
    yield f"{told['system']}/{told['stage']}: {_state(seen)}"
    loss = f", loss {last['loss']:.4f}" if last and last.get("loss") is not None else ""
    yield f"step {step} of {total} ({100 * step / max(1, total):.0f}%){loss}"
    if last and step < total:
        left = duration(last["step_s"] * (total - step))
        waiting = f"{100 * last['data_wait_share']:.0f}% waiting for data"
        yield f"{last['samples_per_s']:.1f} samples/s, {last['step_s']:.3g} s a step, {waiting}, {left} left"
    if seen.checkpoint:
        yield f"last checkpoint: step {seen.checkpoint[0]}, {duration(seen.checkpoint[1])} ago"
    else:
        yield "last checkpoint: none yet"
    yield f"restarts: {seen.status.get('restarts', 0)}"
    yield f"last news: {duration(seen.silent_s)} ago"


def _state(seen: Seen) -> str:
    state = str(seen.status.get("state", "starting"))
    if state == "failed":
        reason = str(seen.status.get("reason", "")).strip().partition("\n")[0]
        return f"failed: {reason}"
    if state in ("running", "starting") and seen.silent_s > _patience_s(seen.rows):
        return f"{state}, but silent: if its driver is gone, the same command continues from the last checkpoint"
    if state == "interrupted":
        return "interrupted; the same command continues"
    return state


def _patience_s(rows: Sequence[Mapping[str, Any]]) -> float:
    """How long a healthy run may say nothing, from the steps between its logged rows."""
    if len(rows) < 2:
        return SILENT_S * SILENT_ROWS
    steps = max(1, int(rows[-1]["step"]) - int(rows[-2]["step"]))
    return max(SILENT_S, SILENT_ROWS * steps * float(rows[-1]["step_s"]))
