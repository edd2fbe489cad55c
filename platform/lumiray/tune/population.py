"""A population's trials as the driver keeps them: their generations, and what was decided at which step.

Ray's schedulers say which trial takes over which (`exploit.py`).  Here that becomes a record, before anything of it
runs: a new generation of the one trial, which begins with the other one's checkpoint and has an output of its own,
`trials/NUMBER/GENERATION`.  Last comes the mark that all of a step's decisions are recorded.  So a driver that was
killed in between decides that step again, and one that was killed later goes on with what was decided.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from lumiray.errors import UserError
from lumiray.storage import NotThere, join, read_bytes, remove_tree, write_atomically
from lumiray.train.retention import KEEP
from lumiray.tune.course import Course, say
from lumiray.tune.generations import GENERATIONS, Generation, plain, said_values
from lumiray.tune.space import Space
from lumiray.tune.study import Trial
from lumiray.tune.trial import TrialSpec

HELD = b"a generation of another trial begins here"


@dataclass
class Population:
    """All trials of a study whose trials take over one another's checkpoints.

    Args:
        every: steps between two decisions.
        seed: of everything that is drawn.
        at_once: trials that run beside each other.
        decided: the last step of which all decisions are recorded.
    """

    course: Course
    space: Space
    every: int
    seed: int
    at_once: int
    decided: int = 0
    trials: dict[int, Trial] = field(default_factory=dict)
    specs: dict[int, TrialSpec] = field(default_factory=dict)

    def begin(self) -> list[int]:
        """Take up the trials that a driver before left, as they were at the last decision, and begin those to come.

        Returns:
            numbers of all that are to run.
        """
        study = self.course.study
        self.decided = study.decided
        left, self.course.left = self.course.left, []
        for one in left:
            if one.generations:  # else a driver was killed before it had drawn values, and they are drawn again
                self.course.left.append(self._as_decided(one))
        while (found := self.course.next_trial()) is not None:
            trial, spec = found
            self.trials[trial.number] = trial
            self.specs[trial.number] = replace(spec, told=self.decided, stretch=self.every)
        return list(self.trials)

    def _as_decided(self, trial: Trial) -> Trial:
        """A trial without generations of a step whose decisions were not all recorded."""
        valid = [one for one in trial.generations if one.step <= self.decided]
        if len(valid) == len(trial.generations):
            return trial
        self.course.study.live(trial.number, valid)
        return next(one for one in self.course.study.trials() if one.number == trial.number)

    def take_over(self, number: int, parent: int, step: int, values: dict[str, Any]) -> TrialSpec:
        """Let a trial begin a generation with another one's checkpoint of a step.

        Returns:
            what it runs from now on; where the values do not go together, with those of the other trial.
        """
        trial, donor = self.trials[number], self.trials[parent]
        born = Generation(step, values, (parent, len(donor.generations) - 1))
        try:
            changed = self._with(trial, born)
            spec = self.course.spec(changed)
        except UserError as error:
            say(f"trial {number} keeps the values of trial {parent}: {error}")
            changed = self._with(trial, replace(born, values=donor.values))
            spec = self.course.spec(changed)
        self._hold(str(spec.job.run.resume))
        self.course.study.live(number, changed.generations)
        self.trials[number], self.specs[number] = changed, replace(spec, told=step, stretch=self.every)
        say(f"trial {number} takes over trial {parent} at step {step}: {said_values(changed.values)}")
        return self.specs[number]

    @staticmethod
    def _with(trial: Trial, born: Generation) -> Trial:
        notes = {**trial.notes, GENERATIONS: plain([*trial.generations, born])}
        return replace(trial, values=born.values, notes=notes)

    def decide(self, step: int) -> None:
        """All decisions of a step are recorded; checkpoints that earlier ones needed may go."""
        self.course.study.decide(step)
        for at in self._starts(self.decided):
            self._release(at)
        self.decided = step

    def _starts(self, step: int) -> Iterator[str]:
        for one in self.trials.values():
            for born in one.generations:
                if born.parent and born.step == step:
                    yield self.course.checkpoint(born.parent, step)

    @staticmethod
    def _hold(checkpoint: str) -> None:
        place = join(checkpoint, KEEP)
        try:
            read_bytes(place)  # it is held already, perhaps by a user
        except NotThere:
            write_atomically(place, HELD)

    @staticmethod
    def _release(checkpoint: str) -> None:
        with suppress(NotThere):
            if read_bytes(join(checkpoint, KEEP)) == HELD:
                remove_tree(join(checkpoint, KEEP))

    def told(self, number: int) -> Iterator[tuple[int, dict[str, Any], float]]:
        """What a trial had told up to the last decision: (step, values in force, the metric), by step.

        A step at which it took over another one comes twice: as it ended, and as it began anew.
        """
        curves = {one.number: dict(one.curve) for one in self.course.study.trials()}
        for step in range(self.every, self.decided + 1, self.every):
            lives = self.trials[number].generations
            before = [one for one in lives if one.step < step][-1]
            if step in curves[number]:
                yield step, dict(before.values), curves[number][step]
            for one in lives:
                if one.step == step and one.parent:
                    yield step, dict(one.values), curves[one.parent[0]][step]
