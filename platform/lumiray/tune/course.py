"""The course of a study: Ray Tune asks for the next trial and says what became of each; the records decide.

Suggester    the next trial: one that a killed driver left, or new values from the study
Recorder     writes down every evaluation and every end
Over         ends the study: told to stop, or something is wrong with all of it
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.search import Searcher

from lumiray import __version__
from lumiray.config import JobConfig
from lumiray.errors import RunFailure, UserError
from lumiray.storage import join
from lumiray.train.manifest import folder_of
from lumiray.tune.generations import said_values
from lumiray.tune.shares import TrialShare
from lumiray.tune.space import Space, with_values
from lumiray.tune.study import State, Study, Trial, database_errors
from lumiray.tune.trial import DONE, ENDED, FIGURES, MISTAKE, REASON, STEP, TrialSpec

TRIALS = "trials"


@dataclass
class Course:
    """What all trials have in common, and how it goes.

    Args:
        job: what trials vary; its output is the study's.
        new: begins one more trial; None when there are enough.
        board: where trials are asked to stop.
        left: trials that a driver before this one left running.
        space: of a population, whose trials change their values.
    """

    study: Study
    job: JobConfig
    new: Callable[[], Trial | None]
    share: TrialShare
    board: Any
    left: list[Trial]
    space: Space | None = None
    stopped: bool = False
    mistake: Exception | None = None
    times: dict[int, float] = field(default_factory=dict)
    """Seconds that trials took."""

    @property
    def over(self) -> bool:
        """Whether the study ends now: told to stop, or something is wrong with all of it."""
        return self.stopped or self.mistake is not None

    def seconds(self, number: int, more: float) -> float:
        """Seconds of a trial in all, with those since it was last heard of."""
        self.times[number] += more
        return round(self.times[number], 1)

    def stop(self) -> None:
        """Let all trials end after their step, with a checkpoint."""
        self.stopped = True
        self.board.stop.remote()

    def next_trial(self) -> tuple[Trial, TrialSpec] | None:
        """The next trial, and what it is to run; None at the end of the study."""
        for trial in self._trials():
            try:
                spec = self.spec(trial)
            except UserError as error:
                self.finish(trial.number, "failed", reason=str(error))
                say(f"trial {trial.number} cannot be: {error}")
                continue
            self.study.note(trial.number, seed=spec.job.run.seed, version=__version__)
            self.times[trial.number] = float(trial.notes.get("seconds", 0.0))
            say(f"trial {trial.number} {'goes on' if trial.curve else 'begins'}: {said_values(trial.values)}")
            return trial, spec
        return None

    def spec(self, trial: Trial) -> TrialSpec:
        """What a trial is to run.

        Raises:
            UserError: its values do not go together.
        """
        job = with_values(self.job, trial.values, f"trial {trial.number}")
        run = replace(job.run, output=self.output(trial.folder))
        if trial.generations and (parent := trial.generations[-1].parent):
            start = self.checkpoint(parent, trial.generations[-1].step)
            run = replace(run, resume=start, accept_changes=tuple(trial.values))
        figures = tuple(one.name for one in self.study.metrics)
        return TrialSpec(replace(job, run=run), figures, self.share.resources, self.board)

    def finish(self, number: int, state: State, figures: Sequence[float] = (), **notes: Any) -> None:
        """Record a trial's end; in a population the values that it ended with count."""
        if self.space is not None:
            self.study.settle(number, self.space)
        self.study.finish(number, state, figures, **notes)

    def output(self, folder: str) -> str:
        """Where a trial's run is."""
        return join(str(self.job.run.output), TRIALS, folder)

    def checkpoint(self, generation: tuple[int, int], step: int) -> str:
        """Where the checkpoint of (trial, generation) after some steps is."""
        return folder_of(self.output(join(*map(str, generation))), step)

    def _trials(self) -> Iterator[Trial]:
        while self.left:
            yield self.left.pop(0)
        while (trial := self.new()) is not None:
            yield trial


class Suggester(Searcher):
    """Hands Tune the next trial of a course."""

    def __init__(self, course: Course) -> None:
        super().__init__()
        self._course = course

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration."""
        course = self._course
        if course.over:
            return Searcher.FINISHED
        try:
            with database_errors(course.study.place):
                found = course.next_trial()
            return {"number": found[0].number, "spec": found[1]} if found else Searcher.FINISHED
        except Exception as error:  # Tune would only log it
            course.mistake = error
            return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing is learnt here: the recorder has written it down, and the study's algorithm reads the records."""
        return None

    def save(self, checkpoint_path: str) -> None:
        """Tune's own snapshot, which nobody reads: the records decide."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Never called: a study goes on from its records.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("a study goes on from its records, not from Tune's snapshot")


def _recorded(act: Callable[..., None]) -> Callable[..., None]:
    """What goes wrong in a callback ends the study: Tune would blame the trial."""

    @functools.wraps(act)
    def guarded(self: Recorder, *given: Any, **named: Any) -> None:
        try:
            with database_errors(self.course.study.place):
                act(self, *given, **named)
        except Exception as error:
            self.course.mistake = self.course.mistake or error

    return guarded


class Recorder(Callback):
    """Writes what Tune hears into the study's records."""

    def __init__(self, course: Course) -> None:
        self.course = course

    @_recorded
    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        """An evaluation, or a trial's end; a trial that is done without saying so was stopped by the scheduler."""
        study, number = self.course.study, int(trial.config["number"])
        if MISTAKE in result:
            raise UserError(result[MISTAKE])
        if ENDED in result and result[ENDED] == "interrupted":
            return
        seconds = self.course.seconds(number, result["time_this_iter_s"])
        figures = result.get(FIGURES, ())
        if figures:
            study.report(number, result[STEP], figures[0])
            study.note(number, seconds=seconds)
        if not result.get(DONE):
            say(f"trial {number}: {study.said(figures)} at step {result[STEP]}")
            return
        if self.course.over:
            return
        state = result.get(ENDED, "stopped")
        self.course.finish(
            number, state, figures, seconds=seconds, **{"reason": result[REASON]} if REASON in result else {}
        )
        say(f"trial {number} {_end(study, state, figures, result)}")

    @_recorded
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial that failed more often than it is retried."""
        number = int(trial.config["number"])
        lines = [line.strip() for line in str(trial.get_error() or "").splitlines() if line.strip()]
        reason = f"its process failed {trial.num_failures} times; at last: {lines[-1] if lines else 'without a word'}"
        self.course.finish(number, "failed", reason=reason[:500])
        say(f"trial {number} failed: {reason}")


class Over(Stopper):
    """Ends the whole study where it is to stop, or where something is wrong with all of it."""

    def __init__(self, course: Course) -> None:
        self._course = course

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is stopped alone."""
        return False

    def stop_all(self) -> bool:
        """Whether the study ends now."""
        return self._course.over


def _end(study: Study, state: str, figures: Sequence[float], result: dict[str, Any]) -> str:
    if state == "failed":
        return f"failed: {result[REASON]}"
    if state == "stopped":
        return f"stopped at step {result[STEP]}: {study.said(figures)}"
    front = study.front()
    if len(study.metrics) > 1:
        return f"done: {study.said(figures)}; front: trials {', '.join(str(one.number) for one in front)}"
    best_words = f"; best: {front[0].value:.5g} of trial {front[0].number}" if front else ""
    return f"done: {study.said(figures)}{best_words}"


def say(text: str) -> None:
    """One line for the user."""
    print(text, flush=True)


def outcome(course: Course) -> None:
    """How a study ended, where that was not well.

    Raises:
        UserError, RunFailure: what was wrong with all of it, or with every trial.
    """
    if course.mistake is not None:
        raise course.mistake
    trials = course.study.trials()
    failed = [one for one in trials if one.state == "failed"]
    if failed and len(failed) == len(trials):
        raise RunFailure(f"All {len(failed)} trials failed; the first: {failed[0].notes.get('reason')}")
