"""Population based training: Ray's schedulers over runs that are a sum, then over real ones."""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle, tune
from tests.settings import default_job

from lumiray.settings_file import to_yaml
from lumiray.storage import join, read_bytes, write_atomically
from lumiray.train.cluster import ray_scratch
from lumiray.train.manifest import folder_of
from lumiray.train.retention import KEEP
from lumiray.tune.course import Course, Over, Recorder
from lumiray.tune.exploit import Members, make_exploit
from lumiray.tune.generations import Generation
from lumiray.tune.options import SearchOptions
from lumiray.tune.place import place_of
from lumiray.tune.population import Population
from lumiray.tune.shares import TrialShare
from lumiray.tune.space import Axis, Interval, Space
from lumiray.tune.study import Study, Trial, described, open_study
from lumiray.tune.trial import DONE, ENDED, FIGURES, NO_FIGURE, REASON, STEP, VALUE, TrialRun

SPACE = Space((Axis("lr", Interval(1e-4, 1e-1, log=True)), Axis("ssim_weight", Interval(0.0, 2.0))))
EVERY, STEPS, TRIALS, FAILING = 2, 8, 4, 2
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not import tests


class Sum(TrialRun):
    """A trial whose training adds its learning rate at every step, and whose checkpoint is that sum."""

    def step(self) -> dict[str, Any]:
        """One stretch."""
        run = self._spec.job.run
        own = folder_of(str(run.output), self._told)
        start = own if Path(own).exists() else run.resume
        before = json.loads(read_bytes(join(start, "sum"))) if self._told else 0.0
        self._told += EVERY
        value = before + EVERY * run.lr
        write_atomically(join(folder_of(str(run.output), self._told), "sum"), json.dumps(value).encode())
        end = {ENDED: "done", DONE: True} if self._told == STEPS else {}
        return {STEP: self._told, VALUE: value, FIGURES: [value], **end}


class LastFails(Sum):
    """One trial fails when all others wait for it."""

    def step(self) -> dict[str, Any]:
        """One stretch."""
        if str(self._spec.job.run.output).endswith(f"trials/{FAILING}/0"):
            time.sleep(3.0)
            return NO_FIGURE | {ENDED: "failed", REASON: "too slow"}
        return super().step()


class DiesOnce(Sum):
    """The process of a trial dies in its second generation."""

    def step(self) -> dict[str, Any]:
        """One stretch."""
        output = Path(str(self._spec.job.run.output))
        if output.name == "1" and not (died := output.parents[1] / "died").exists():
            died.touch()
            os._exit(1)
        return super().step()


def drive(folder: Path, scheduler: str, kind: type[Sum] = Sum, stop_at: int = STEPS) -> Study:
    """A study of sums, run as `search.drive` does, which is told to stop once a trial has told of a step."""
    about = {"system": "cidnet", "metric": "psnr", "scheduler": scheduler, "job": to_yaml(default_job("cidnet"))}
    study = open_study(place_of(str(folder), None, new=True), "sums", about | described(SPACE))
    job = default_job("cidnet")
    job = replace(job, run=replace(job.run, output=str(folder)))

    def new() -> Trial | None:
        return study.draw(SPACE, job.run.seed) if len(study.trials()) < TRIALS else None

    share = TrialShare(2, {}, {"CPU": 0.1})
    running = [one for one in study.trials() if one.state == "running"]
    course = Course(study, job, new, share, None, running, SPACE)
    population = Population(course, SPACE, EVERY, job.run.seed, share.at_once)
    options = SearchOptions(metric="psnr", scheduler=scheduler)  # type: ignore[arg-type]

    class Stops(Over):
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            course.stopped |= stop_at <= result[STEP] < STEPS
            return False

    tune.Tuner(
        tune.with_resources(kind, tune.PlacementGroupFactory([share.process])),
        param_space={"number": tune.grid_search(population.begin())},
        tune_config=tune.TuneConfig(
            search_alg=Members(course), scheduler=make_exploit(options, population), reuse_actors=True
        ),
        run_config=tune.RunConfig(
            name=f"sums-{uuid.uuid4().hex[:12]}",
            storage_path=ray_scratch(),
            failure_config=tune.FailureConfig(max_failures=1),
            callbacks=[Recorder(course)],
            stop=Stops(course),
            verbose=0,
        ),
    ).fit()
    if course.mistake:
        raise course.mistake
    return study


def lives(study: Study) -> list[tuple[Any, ...]]:
    """All that a population's records say of its trials, but times."""
    return [(one.number, one.state, one.curve, one.generations) for one in study.trials()]


@pytest.fixture(scope="module", autouse=True)
def _tune_as_in_a_search() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"TUNE_DISABLE_STRICT_METRIC_CHECKING": "1", "RAY_AIR_NEW_OUTPUT": "0"}.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module", params=["pbt", pytest.param("pb2", marks=pytest.mark.slow)])
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, ray_address: str) -> Study:
    """One that nothing disturbed."""
    return drive(tmp_path_factory.mktemp("whole") / "study", request.param)


def test_the_worst_go_on_from_checkpoints_of_the_best(study: Study) -> None:
    trials = study.trials()
    sums = {one.number: dict(one.curve) for one in trials}
    for one in trials:
        for step in range(EVERY, STEPS + 1, EVERY):
            life = [found for found in one.generations if found.step < step][-1]
            before = step - EVERY
            source = life.parent[0] if life.parent and life.step == before else one.number
            start = sums[source][before] if before else 0.0
            assert sums[one.number][step] == start + EVERY * life.values["lr"]
    born = [(one, life) for one in trials for life in one.generations if life.parent]
    assert born, lives(study)
    for one, life in born:
        assert life.parent is not None
        ranked = sorted(trials, key=lambda found: sums[found.number][life.step])
        assert (one.number, life.parent[0]) == (ranked[0].number, ranked[-1].number)
        for axis in SPACE.axes:
            assert isinstance(axis.over, Interval)
            assert axis.over.low <= life.values[axis.field] <= axis.over.high


def test_a_checkpoint_is_held_until_the_next_decision(study: Study) -> None:
    trials = Path(str(study.place.local)).parent / "trials"
    steps = {
        folder_of(str(trials / str(life.parent[0]) / str(life.parent[1])), life.step): life.step
        for one in study.trials()
        for life in one.generations
        if life.parent
    }
    held = {at for at in steps if Path(at, KEEP).exists()}
    assert held == {at for at, step in steps.items() if step == study.decided}


def test_a_users_hold_stays(tmp_path: Path) -> None:
    write_atomically(str(tmp_path / KEEP), b"mine")
    Population._hold(str(tmp_path))
    Population._release(str(tmp_path))
    assert (tmp_path / KEEP).read_bytes() == b"mine"


@pytest.mark.slow
def test_lineage_is_the_same_over_a_stop(tmp_path: Path, study: Study) -> None:
    scheduler = str(study.about["scheduler"])
    stopped = drive(tmp_path / "study", scheduler, stop_at=2 * EVERY)
    assert {one.state for one in stopped.trials()} == {"running"}
    unsaid = stopped.trials()[0]  # as if a driver had been killed while it wrote decisions down
    stopped.live(0, [*unsaid.generations, Generation(3 * EVERY, unsaid.values, (1, 0))])
    assert lives(drive(tmp_path / "study", scheduler)) == lives(study)


@pytest.mark.slow
def test_lineage_is_the_same_over_a_process_that_dies(tmp_path: Path, study: Study) -> None:
    again = drive(tmp_path / "study", str(study.about["scheduler"]), DiesOnce)
    assert (tmp_path / "study" / "trials" / "died").exists()
    assert lives(again) == lives(study)


@pytest.mark.slow
def test_a_population_goes_on_without_the_one_that_fails(tmp_path: Path, ray_address: str) -> None:
    trials = drive(tmp_path / "study", "pbt", LastFails).trials()
    assert [one.state for one in trials] == ["failed" if one.number == FAILING else "done" for one in trials]
    parents = [life.parent[0] for one in trials for life in one.generations if life.parent]
    assert parents
    assert FAILING not in parents
