"""The records of a study: what was searched, and every trial with its values, its curve and how it ended.

They are an Optuna study, so that Optuna's algorithms learn from them and its dashboard shows them; trials of every
algorithm are in it, grid and random too.  These records decide what is left to do, Ray Tune only executes.  They are
plain JSON in a database: nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import optuna
import yaml
from optuna.trial import TrialState

from lumiray.config import JobConfig
from lumiray.errors import RunFailure, UserError
from lumiray.identity import compare
from lumiray.settings_file import job_from
from lumiray.storage import join, without_secrets
from lumiray.tune.draw import combination, drawn, fixed, quiet, sampler
from lumiray.tune.generations import GENERATIONS, Generation, of_notes, plain
from lumiray.tune.metric import Metric, metrics_of
from lumiray.tune.place import Place
from lumiray.tune.space import Axis, Choice, Space, Whole, with_values

ABOUT, JOB = "lumiray", "job"  # attributes of a study: what it is; in it, the job that its trials vary
GIVEN = "given"  # attribute of a trial that another study ran
DECIDED = "decided"  # attribute of the study of a population
State = Literal["running", "done", "stopped", "failed"]
STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
}
TOLD = {name: state for state, name in STATES.items() if state != TrialState.WAITING}


@dataclass(frozen=True)
class Trial:
    """One trial as it is recorded.

    Args:
        values: of the fields that it varies, plain as in YAML, by dotted name; the newest where they change on the way.
        curve: (step, the first metric) of its evaluations, by step.
        figures: all metrics at its end, of a trial that is done.
        notes: what else was written down: `reason`, `seconds`, `seed`, `version`.
    """

    number: int
    state: State
    values: Mapping[str, Any]
    curve: tuple[tuple[int, float], ...] = ()
    figures: tuple[float, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float | None:
        """The first metric at its end, of a trial that is done."""
        return self.figures[0] if self.figures else None

    @property
    def generations(self) -> tuple[Generation, ...]:
        """Its stretches, of a trial in a population."""
        return of_notes(self.notes)

    @property
    def folder(self) -> str:
        """Where its run is, below the study's trials: in a population the run of its newest generation."""
        number = str(self.number)
        return join(number, str(len(self.generations) - 1)) if self.generations else number

    @property
    def last(self) -> float | None:
        """The newest value of the first metric."""
        return self.value if self.value is not None else (self.curve[-1][1] if self.curve else None)


class Study:
    """An open study.

    Args:
        about: what it is: system, version, metric, space, settings that all trials share; `job` is the whole job as
            YAML.
    """

    def __init__(self, place: Place, study: optuna.Study, about: Mapping[str, Any]) -> None:
        self.place, self.about = place, about
        self._study = study

    def job_of(self, trial: Trial) -> JobConfig:
        """The job that a trial ran, without the output that it wrote to.

        Raises:
            UserError: its settings do not fit the system any more.
        """
        slug, name = str(self.about["system"]), f"trial {trial.number}"
        job = with_values(job_from(slug, yaml.safe_load(str(self.about[JOB])), name), trial.values, name)
        return replace(job, run=replace(job.run, output=None))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is to be best."""
        return metrics_of(str(self.about["metric"]))

    @property
    def metric(self) -> str:
        """The figure that curves and charts show: the first."""
        return self.metrics[0].name

    def said(self, figures: Sequence[float]) -> str:
        """Figures of a trial with their names."""
        return ", ".join(f"{one.name} {figure:.5g}" for one, figure in zip(self.metrics, figures, strict=True))

    def trials(self) -> list[Trial]:
        """All trials of its own, by number."""
        return [_trial(one) for one in self._study.get_trials(deepcopy=False) if GIVEN not in one.user_attrs]

    def given(self) -> list[Trial]:
        """Trials of another study that its algorithm learns from; their note `given` says where they are from."""
        return [_trial(one) for one in self._study.get_trials(deepcopy=False) if GIVEN in one.user_attrs]

    def take(self, space: Space, trials: Sequence[Trial], source: str) -> None:
        """Learn from trials of another study, which lie in the space; once a trial of its own began no others come."""
        taken = {one.notes[GIVEN]["trial"] for one in self.given()}
        for one in trials if not self.trials() else ():
            if one.number in taken:
                continue
            given = fixed(space, one.values)
            template = optuna.create_trial(
                values=list(one.figures),
                params=given.params,
                distributions=given.distributions,
                user_attrs={"values": dict(one.values), GIVEN: {"study": source, "trial": one.number}},
                intermediate_values=dict(one.curve),
            )
            self._study.add_trial(template)

    def _done(self) -> tuple[optuna.Study, list[Trial]]:
        """Its own trials that are done, also as a study in memory, which numbers them from 0."""
        everything = self._study.get_trials(deepcopy=False)
        done = [one for one in everything if one.state == TrialState.COMPLETE and GIVEN not in one.user_attrs]
        alone = optuna.create_study(directions=[one.direction for one in self.metrics])
        alone.add_trials(done)
        return alone, [_trial(one) for one in done]

    def best(self) -> Trial | None:
        """Of the trials that are done the one with the best value of the first metric."""
        return next(iter(self.front()), None)

    def front(self) -> list[Trial]:
        """Trials that no other one beats at a metric without being worse at another.

        The best by the first metric come first; with one metric these are those that share the best value.
        """
        alone, done = self._done()
        found = [done[one.number] for one in alone.best_trials]
        return sorted(found, key=lambda one: (-self.metrics[0].sign * one.figures[0], one.number))

    def ask(self, space: Space, algorithm: str, seed: int) -> Trial:
        """Begin the next trial: its values are recorded before it runs.

        The draw depends on the seed, the trial's number and the trials before it, not on how often a driver was killed.
        """
        number = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = sampler(algorithm, seed, number)
        if algorithm == "grid":
            waiting = any(one.state == TrialState.WAITING for one in self._study.get_trials(deepcopy=False))
            number -= waiting  # a driver was killed between these two lines
            if not waiting:
                self._study.enqueue_trial(combination(space, number))
        asked = self._study.ask()
        values = drawn(space, asked)
        asked.set_user_attr("values", values)
        self.place.publish()
        return Trial(asked.number, "running", values)

    def begin(self, values: Mapping[str, Any]) -> Trial:
        """Begin a trial with values that no algorithm chose."""
        asked = self._study.ask()
        asked.set_user_attr("values", dict(values))
        self.place.publish()
        return Trial(asked.number, "running", values)

    def draw(self, space: Space, seed: int) -> Trial:
        """Begin a trial of a population, with random values that depend on the seed and its number alone.

        As they will change, they are Optuna's parameters only at the trial's end.
        """
        trials = self._study.get_trials(deepcopy=False)
        half = bool(trials) and GENERATIONS not in trials[-1].user_attrs  # a driver was killed between these lines
        number = trials[-1].number if half else self._study.ask().number
        with quiet():
            first = Generation(0, drawn(space, optuna.create_study(sampler=sampler("random", seed, number)).ask()))
        self.live(number, [first])
        self.place.publish()
        return Trial(number, "running", first.values, notes={GENERATIONS: plain([first])})

    def live(self, number: int, generations: Sequence[Generation]) -> None:
        """Record the generations of a running trial, in place of those recorded before."""
        self.note(number, **{GENERATIONS: plain(generations)})

    @property
    def decided(self) -> int:
        """Of a population: the last step at which it was decided who takes over whom; later generations are void."""
        return int(self._study.user_attrs.get(DECIDED, 0))

    def decide(self, step: int) -> None:
        """All that was decided at a step is recorded now."""
        self._study.set_user_attr(DECIDED, step)
        self.place.publish()

    def settle(self, number: int, space: Space) -> None:
        """Make the newest values of a running trial Optuna's parameters."""
        storage, trial_id = self._study._storage, self._id(number)
        one = storage.get_trial(trial_id)
        given = fixed(space, _trial(one).values)
        for name, over in given.distributions.items():
            if name not in one.params:  # a driver may have been killed between two of them
                storage.set_trial_param(trial_id, name, over.to_internal_repr(given.params[name]), over)

    def report(self, number: int, step: int, value: float) -> None:
        """Record the first metric of a running trial after some steps; what is recorded for them already stays."""
        self._study._storage.set_trial_intermediate_value(self._id(number), step, value)

    def note(self, number: int, **notes: Any) -> None:
        """Write something down about a running trial."""
        for name, value in notes.items():
            self._study._storage.set_trial_user_attr(self._id(number), name, value)

    def finish(self, number: int, state: State, figures: float | Sequence[float] = (), **notes: Any) -> None:
        """End a trial: it is done with its figures, one per metric, was stopped early, or has failed."""
        self.note(number, **notes)
        self._study.tell(number, figures if state == "done" else None, state=TOLD[state])
        self.place.publish()

    def importance(self, metric: int = 0) -> dict[str, float]:
        """What share of a metric's variation among trials that are done each field explains (PED-ANOVA); may be empty.

        Fields that only some of them vary are left out: their share would be of those trials alone.
        """
        alone, done = self._done()
        fields = [field for field in done[0].values if all(field in one.values for one in done)] if done else []
        sign = -self.metrics[metric].sign  # PED-ANOVA of a target looks at the lowest
        with quiet():
            try:
                return (
                    optuna.importance.get_param_importances(
                        alone, params=fields, target=lambda one: sign * one.values[metric]
                    )
                    if fields
                    else {}
                )
            except (ValueError, RuntimeError):  # too few trials
                return {}

    def _id(self, number: int) -> int:
        return int(self._study._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number))


def _trial(one: optuna.trial.FrozenTrial) -> Trial:
    notes = dict(one.user_attrs)
    values = notes.pop("values", {})
    values = generations[-1].values if (generations := of_notes(notes)) else values
    figures = tuple(one.values) if one.state == TrialState.COMPLETE else ()
    return Trial(one.number, STATES[one.state], values, tuple(sorted(one.intermediate_values.items())), figures, notes)


def described(space: Space) -> dict[str, str]:
    """A space as texts by field, for records and comparison."""

    def words(axis: Axis) -> str:
        over = axis.over
        if isinstance(over, Choice):
            said = f"choice of {json.dumps(over.values)}"
        elif isinstance(over, Whole):
            said = f"int from {over.low} to {over.high}" + f" in steps of {over.step}" * (over.step > 1)
        else:
            said = f"{'log' * over.log}uniform from {over.low:g} to {over.high:g}"
        return said + "".join(f", when {name} is in {json.dumps(one)}" for name, one in axis.when)

    return {f"space.{axis.field}": words(axis) for axis in space.axes}


def open_study(place: Place, name: str, about: Mapping[str, Any] | None = None) -> Study:
    """The study in a database; with `about` it is made where there is none, and has to be this one where there is.

    Raises:
        UserError: there is none, it is another one (each difference is named), or the database cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with database_errors(place):
        storage = optuna.storages.RDBStorage(place.url)
        found = {one.study_name: one for one in optuna.get_all_study_summaries(storage, include_best_trial=False)}
        if about is not None and name in found and not found[name].n_trials:
            optuna.delete_study(study_name=name, storage=storage)  # its driver found a mistake before the first trial
            del found[name]
        known = set(found)
        if about is None and name not in known:
            raise UserError(f"{without_secrets(place.url)}: there is no study {name!r}; there are {sorted(known)}.")
        if about is not None and name not in known:
            directions = [one.direction for one in metrics_of(str(about["metric"]))]
            optuna.create_study(study_name=name, storage=storage, directions=directions, load_if_exists=True)
        study = optuna.load_study(study_name=name, storage=storage)
        stored = study.user_attrs.get(ABOUT)
        if about is not None and stored is None:
            study.set_user_attr(ABOUT, dict(about))
            stored = about
        if stored is None:
            raise UserError(f"{without_secrets(place.url)}: the study {name!r} was not made by a search of this house.")
        if about is not None:
            _refuse_other(stored, about, name)
        study.set_metric_names([one.name for one in metrics_of(str(stored["metric"]))])
    return Study(place, study, stored)


def _refuse_other(stored: Mapping[str, Any], about: Mapping[str, Any], name: str) -> None:
    differing = compare(dict(stored), json.loads(json.dumps(dict(about))), accepted=(JOB,))  # its fields are compared
    if differing:
        lines = "\n  ".join(one.replace("the run has", "the study has") for one in differing)
        raise UserError(
            f"The study {name!r} was made with other settings:\n  {lines}\nRepeat them, or choose another --output: "
            "trials under different settings are not comparable."
        )


@contextmanager
def database_errors(place: Place) -> Iterator[None]:
    """Say what a database that cannot be used means, without its password."""
    from sqlalchemy.exc import SQLAlchemyError

    where = without_secrets(place.url)
    try:
        with quiet():
            yield
    except ImportError as error:
        raise UserError(
            f"--storage {where} needs a driver that is not installed ({error.__cause__ or error}): "
            "pip install 'lumiray[postgresql]'."
        ) from None
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        inmost: BaseException = error
        while (cause := getattr(inmost, "orig", None) or inmost.__cause__) is not None:
            inmost = cause
        said = " ".join(str(inmost).split())[:300]
        raise RunFailure(
            f"The study's database {where} cannot be used: {said} Check address, name and rights."
        ) from None
