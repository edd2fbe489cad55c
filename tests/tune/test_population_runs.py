"""Population based training of real runs: weights that were taken over, and a driver that was killed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from tests.tune.test_population import lives
from tests.tune.test_search import places, start, study_of, until

from lumiray.command import parse
from lumiray.train.manifest import folder_of, open_checkpoint
from lumiray.train.restore import export_model
from lumiray.tune.study import Study
from lumiray.tune.summary import best_settings, shown

__all__ = ["places"]  # a fixture
SPACE = "lr: {choice: [0.0, 1.0e-3]}\nssim_weight: {uniform: [0, 2]}\n"
LENGTH = ("--steps", "9", "--evaluate.every", "1", "--grace", "3", "--checkpoint.keep", "99")
SEED = "1"


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> str:
    found = tmp_path_factory.mktemp("space") / "space.yaml"
    found.write_text(SPACE)
    return str(found)


@pytest.fixture(scope="module")
def output(
    tmp_path_factory: pytest.TempPathFactory, ray_address: str, places: tuple[str, ...], space: str
) -> tuple[Path, str]:
    """A study that ran through, and what it said."""
    output = tmp_path_factory.mktemp("whole") / "study"
    job = start(output, ray_address, *places, *options(space))
    code, text = job.finish()
    assert code == 0, text
    return output, text


def options(space: str) -> tuple[str, ...]:
    return ("--space", space, *LENGTH, "--scheduler", "pbt", "--trials", "4", "--seed", SEED)


def run_of(output: Path, trial: int, generation: int) -> Path:
    return output / "trials" / str(trial) / str(generation)


@pytest.mark.slow
def test_a_generation_begins_with_the_weights_of_another_trial_and_values_of_its_own(output: tuple[Path, str]) -> None:
    base, text = output
    study = study_of(base)
    assert [one.state for one in study.trials()] == ["done"] * 4, text
    still = 0
    for one in study.trials():
        for number, life in enumerate(one.generations):
            run = run_of(base, one.number, number)
            job = parse("cidnet", ["--config", str(run / "config.yaml")]).job
            assert {"lr": job.run.lr, "ssim_weight": job.system.ssim_weight} == dict(life.values)
            if life.parent is None:
                continue
            donor = folder_of(str(run_of(base, *life.parent)), life.step)
            assert (job.run.resume, set(job.run.accept_changes)) == (donor, {"lr", "ssim_weight"})
            own = open_checkpoint(str(run))
            assert own.step > life.step
            if life.values["lr"] == 0.0:  # nothing has moved since
                still += 1
                before, after = export_model(open_checkpoint(donor)), export_model(own)
                assert all(torch.equal(before[name], after[name]) for name in before)
    assert still, [one.generations for one in study.trials()]


@pytest.mark.slow
def test_a_populations_records_are_shown_and_its_best_settings_are_a_job(output: tuple[Path, str]) -> None:
    base, text = output
    study = study_of(base)
    said = shown(str(base), None)
    assert "goes on from trial" in said
    assert "Taken over" in (base / "report.html").read_text()
    assert "takes over trial" in text
    best = study.best()
    assert best is not None
    (base / "best.yaml").write_text(best_settings(str(base), None))
    job = parse("cidnet", ["--config", str(base / "best.yaml"), "--output", "o"]).job
    assert (job.run.lr, job.system.ssim_weight) == (best.values["lr"], best.values["ssim_weight"])


@pytest.mark.slow
def test_a_population_whose_driver_was_killed_ends_as_one_whose_driver_was_not(
    tmp_path: Path, ray_address: str, places: tuple[str, ...], space: str, output: tuple[Path, str]
) -> None:
    whole, killed = study_of(output[0]), tmp_path / "study"

    def began_anew(study: Study) -> list[tuple[int, int]]:
        return [
            (one.number, number) for one in study.trials() for number, life in enumerate(one.generations) if life.parent
        ]

    first = began_anew(whole)[0]
    job = start(killed, ray_address, *places, *options(space))
    until(job, lambda: (run_of(killed, *first) / "run.json").exists())
    job.send(signal.SIGKILL)
    job.finish()
    assert {one.state for one in study_of(killed).trials()} == {"running"}
    code, text = start(killed, ray_address, *places, *options(space)).finish()
    assert code == 0, text
    assert lives(study_of(killed)) == lives(whole)


@pytest.mark.slow
def test_trials_of_two_workers_wait_for_each_other_at_the_same_step(
    tmp_path: Path, ray_address: str, places: tuple[str, ...], space: str
) -> None:
    output = tmp_path / "study"
    length = ("--steps", "4", "--evaluate.every", "2", "--scheduler", "pbt", "--trials", "2", "--workers", "2")
    code, text = start(output, ray_address, *places, "--space", space, *length, "--seed", "4").finish()
    assert code == 0, text
    first, second = study_of(output).trials()
    assert [one.state for one in (first, second)] == ["done", "done"]
    (parent,) = [life.parent for one in (first, second) for life in one.generations if life.parent]
    child = second if parent[0] == first.number else first
    assert open_checkpoint(str(run_of(output, child.number, 0))).step == 2  # it did not run on
    assert open_checkpoint(str(run_of(output, child.number, 1))).step == 4
