"""One trial, as Ray Tune runs it: the trainer that every job uses, in an output of its own below the study's.

A trial with one worker is that worker; for one with several this process starts a group of Ray Train workers.  Tune
hears of every evaluation as the run writes it into its metrics, so that a run which goes on after a kill tells its
earlier ones again.  The last evaluation is told when the run has ended and its checkpoint is complete.

A process runs one trial after the other.  When Tune stops a trial, the run ends after its step, with a checkpoint.

In a population a run goes stretch by stretch: it ends with a checkpoint where schedulers compare trials, and begins
again when Tune lets its trial go on.  What Tune hands from trial to trial as their checkpoints are addresses alone:
which one a run starts from says its job, and the records.
"""

from __future__ import annotations

import gc
import json
import math
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.train._internal.session import _TrainingResult
from ray.tune.result import DONE

from lumiray.config import JobConfig
from lumiray.errors import near
from lumiray.evaluate.report import read_rows
from lumiray.storage import NotThere, is_s3, join, read_bytes
from lumiray.train.chain import IDENTITY, STATUS
from lumiray.train.failure import STAYS, user_error_behind
from lumiray.train.manifest import folder_of, latest
from lumiray.train.marks import Marks

if TYPE_CHECKING:
    from lumiray.train.board import StopWatch

LOOK_S, LOOK_S3_S = 0.2, 2.0  # between two looks at a run's metrics
STOP_S = 300.0  # that a run may take to its next step and its checkpoint

# what a row told to Tune holds, besides Tune's own word for its end
STEP, VALUE, FIGURES, ENDED, REASON, MISTAKE = "step", "value", "figures", "ended", "reason", "mistake"
SPEED = "samples_per_s"  # a figure that training gives, and no evaluation
NO_FIGURE = {DONE: True, STEP: math.inf}
"""The end of a trial without a figure; schedulers compare trials up to a step, and this one is beyond all."""


@dataclass(frozen=True)
class TrialSpec:
    """What a trial is to run.

    Args:
        job: with the trial's values and its own output.
        figures: names of the metrics.
        resources: what it may take of the cluster.
        studys_board: where the driver asks all trials to stop (`Board`).
        told: step up to which Tune has heard of its evaluations.
        stretch: in a population, steps after `told` at which the run ends for the others to catch up.
    """

    job: JobConfig
    figures: tuple[str, ...]
    resources: dict[str, float]
    studys_board: Any
    told: int = 0
    stretch: int | None = None


class TrialRun(tune.Trainable):
    """A trial as Tune's actor; `config["spec"]` is a `TrialSpec`."""

    _run: threading.Thread | None = None
    _told: int  # step of the newest evaluation that Tune has heard of
    _studys_stop: StopWatch

    def setup(self, config: dict[str, Any]) -> None:
        """Take a trial; its run starts with the first step."""
        self._spec: TrialSpec = config["spec"]
        self._told = self._spec.told

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """End this trial's run, if Tune stopped it, and take another trial in the same process."""
        self._end_run()
        self.setup(new_config)
        return True

    def save(self, checkpoint_dir: str | None = None) -> _TrainingResult:
        """The address of the checkpoint that the stretch ended with; nothing is copied, and Tune never opens it."""
        at = folder_of(str(self._spec.job.run.output), self._told)
        return _TrainingResult(tune.Checkpoint.from_directory(at), dict(self._last_result or {}))

    def restore(self, checkpoint_path: Any) -> None:
        """Let the next stretch begin where this or another trial's has ended."""
        self._told = int(checkpoint_path.metrics[STEP])

    def cleanup(self) -> None:
        """End the run, if Tune stopped the trial."""
        self._end_run()

    def step(self) -> dict[str, Any]:
        """Wait for the next evaluation, or the run's end.

        Raises:
            Exception: what ended the run, where starting it again may mend it.
        """
        run = self._run or self._begin()
        while True:
            ended = not run.is_alive()  # asked first, so that nothing it wrote last is missed
            row = next((one for one in evaluations(self._output) if one["step"] > self._told), None)
            last = row is not None and row["step"] in (self._until, total_steps(self._output))
            if row is not None and not last:
                self._told = row["step"]
                return told(self._with_speed(row), self._spec.figures)
            if ended:
                return self._ending(row)
            if self._studys_stop.stop_requested():
                self._end_run()
                return NO_FIGURE | {ENDED: "interrupted"}
            time.sleep(LOOK_S3_S if is_s3(self._output) else LOOK_S)

    def _ending(self, row: dict[str, Any] | None) -> dict[str, Any]:
        """What is told of a run that ended by itself.

        Args:
            row: its last evaluation, which nobody was told of.
        """
        import ray

        if self._failure is not None:
            mistake = ray.get(self._board.state.remote())[1]
            known = user_error_behind(self._failure)
            if mistake is None and known is None:
                raise self._failure
            return NO_FIGURE | {ENDED: "failed", REASON: in_short(mistake[0] if mistake else str(known))}
        if row is None:
            return NO_FIGURE | {ENDED: "failed", REASON: "its run ended without an evaluation"}
        heard = told(self._with_speed(row), self._spec.figures)
        if row["step"] == total_steps(self._output):
            return {ENDED: "done", DONE: True} | heard
        self._told = row["step"]  # a stretch has ended; the next one begins when Tune says so
        self._end_run()
        return heard

    def _with_speed(self, row: dict[str, Any]) -> dict[str, Any]:
        """An evaluation, with the median speed of training up to it."""
        if SPEED not in self._spec.figures:
            return row
        speeds = [
            one[SPEED] for one in read_rows(self._output) if one["kind"] == "train" and one["step"] <= row["step"]
        ]
        return row | ({SPEED: statistics.median(speeds)} if speeds else {})

    def _begin(self) -> threading.Thread:
        from lumiray.train.board import Board, StopWatch

        spec = self._spec
        self._output = str(spec.job.run.output)
        self._until = None if spec.stretch is None else self._told + spec.stretch
        self._failure: BaseException | None = None
        self._studys_stop = StopWatch(spec.studys_board)
        self._board: Any = Board.remote()  # type: ignore[attr-defined]
        self._run = threading.Thread(target=self._run_to_its_end, name="run", daemon=True)
        self._run.start()
        return self._run

    def _run_to_its_end(self) -> None:
        from lumiray.train.board import shown

        try:
            if not is_over(self._output, self._until):  # else its driver was killed before it could record that
                with shown(self._board):
                    run_job(self._spec, self._board, self._until)
        except BaseException as error:
            self._failure = error
        gc.collect()  # networks and engines refer to themselves, and the next trial needs their memory

    def _end_run(self) -> None:
        """Stop the run after its step, with a checkpoint; return when it has ended."""
        import ray

        if self._run is None:
            return
        if self._run.is_alive():
            self._board.stop.remote()
            self._run.join(STOP_S)
        self._run = None
        ray.kill(self._board)


def run_job(spec: TrialSpec, board: Any, until: int | None) -> None:
    """Run a trial's job to its end or up to a step, or until the board says stop; what is in its output goes on.

    Raises:
        Exception: it failed; a user's mistake is on the board, too.
    """
    from lumiray.train.checks import check_job
    from lumiray.train.group import Group, run_group, run_here
    from lumiray.train.launch import ready
    from lumiray.train.worker import work

    made = ready(check_job(spec.job), spec.resources, Marks(time.time()))
    worker = replace(made.spec, until=until)
    if made.workers == 1:
        run_here(work, worker, board)
        return
    group = Group("lumiray-trial", made.workers, made.shares.device, made.shares.worker, spec.job.run.retries)
    run_group(group, work, worker, board)


def in_short(message: str) -> str:
    """What a table can hold of a message: of a traceback its last line."""
    text = message.partition("\n" + STAYS.partition("{}")[0])[0].strip()
    return text.splitlines()[-1] if text.startswith("Traceback") else text


def told(row: dict[str, Any], figures: Sequence[str]) -> dict[str, Any]:
    """What Tune hears of an evaluation; one without a figure ends the study, one that is not a number the trial."""
    step = row["step"]
    for figure in figures:
        value = row.get(figure)
        if figure not in row:
            there = ", ".join(name for name in row if name not in ("step", "kind", "time_s"))
            return NO_FIGURE | {
                MISTAKE: f"--metric {figure}: no evaluation reports it.{near(figure, row)} This one reports {there}."
            }
        if value is None or not math.isfinite(value):  # metrics.jsonl has null for both
            return NO_FIGURE | {ENDED: "failed", REASON: f"{figure} at step {step} is not a number"}
    found = [float(row[figure]) for figure in figures]
    return {STEP: step, VALUE: found[0], FIGURES: found}


def evaluations(output: str) -> list[dict[str, Any]]:
    """Rows of a run's evaluations, by step."""
    return [row for row in read_rows(output) if row["kind"] == "evaluation"]


def total_steps(output: str) -> int | None:
    """How long a run is; None before it has said so."""
    return _read(join(output, IDENTITY)).get("total_steps")


def is_over(output: str, until: int | None = None) -> bool:
    """Whether a run has come to its end, or to a step with an evaluation and a checkpoint."""
    if _read(join(output, STATUS)).get("state") == "done":
        return True
    evaluated = until is not None and any(row["step"] >= until for row in evaluations(output))
    newest = latest(output) if evaluated else None
    return newest is not None and newest.step >= (until or 0)


def _read(url: str) -> dict[str, Any]:
    try:
        found = json.loads(read_bytes(url))
    except NotThere:
        return {}
    return found if isinstance(found, dict) else {}
