"""A search as a process on the session's cluster: to its end, through kills, and against bad input."""

from __future__ import annotations

import functools
import json
import os
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.conftest import ROOT, Job, start_job
from tests.jobs.test_restore_finetune import pair, shard

from lumiray.command import parse
from lumiray.train.manifest import open_checkpoint
from lumiray.tune.course import Course
from lumiray.tune.place import place_of
from lumiray.tune.study import Study, open_study
from lumiray.tune.summary import best_settings
from lumiray.tune.trial import in_short

SMALL = ("--channels", "4", "4", "8", "8", "--heads", "1", "2", "2", "4", "--perceptual-weight", "0")
TRAINING = (
    *("cidnet", *SMALL, "--crop-size", "32", "--global-batch-size", "4", "--micro-batch-size", "2"),
    *("--warmup", "0", "--log.every", "1", "--retries", "0", "--metric", "psnr"),
)
SPACE = "lr: {choice: [1.0e-3, 1.0e-5, 1.0e-6, 1.0e-7]}\n"
START_S = 240.0  # until the first evaluation on cores that others use, too


def test_a_reason_is_short() -> None:
    stays = "\nWhat is committed in /o stays as it is; the same command continues from it."
    assert in_short("Traceback (most recent call last):\n  File x\nValueError: no\n" + stays) == "ValueError: no"
    assert in_short("step 3: the loss is not finite" + stays) == "step 3: the loss is not finite"


def test_the_time_of_a_trial_goes_on_in_another_process() -> None:
    unused: Any = None
    course = Course(unused, unused, lambda: None, unused, unused, [])
    course.times[0] = 10.0
    assert [course.seconds(0, more) for more in (1.0, 4.0, 2.0, 1.0)] == [11.0, 15.0, 17.0, 18.0]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Options for 16 pairs to train on, three to evaluate on, and what is varied."""
    base = tmp_path_factory.mktemp("pairs")
    train = shard(base / "train" / "00000.tar", [pair(number) for number in range(16)])
    held_out = shard(base / "held-out" / "00000.tar", [pair(100 + number) for number in range(3)])
    (base / "space.yaml").write_text(SPACE)
    return ("--shards", str(train), "--val-shards", str(held_out), "--space", str(base / "space.yaml"))


def start(output: Path, address: str, *options: str) -> Job:
    return start_job("search.py", str(output), *TRAINING, *options, ray_address=address)


def study_of(output: Path) -> Study:
    return open_study(place_of(str(output), None), output.name)


def rows(output: Path, number: int, kind: str) -> list[dict[str, float]]:
    file = output / "trials" / str(number) / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def found_trial(found: list[psutil.Process]) -> bool:
    """Whether a trial's process is in the list, or could be added; Ray names it after what it does at the moment."""
    names = ("ray::ResourceTr", "ray::TrialRun")
    found += [one for one in psutil.process_iter(["name"]) if str(one.info["name"]).startswith(names)]
    return bool(found)


def until(job: Job, holds: Callable[[], bool]) -> None:
    end = time.monotonic() + START_S
    while not holds():
        assert job.process.poll() is None, job.finish()[1]
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_study_ends_its_poor_trials_early_and_its_best_settings_repeat_the_best_trial(
    tmp_path: Path, ray_address: str, places: tuple[str, ...]
) -> None:
    output = tmp_path / "study"
    grid = (
        "--algorithm",
        "grid",
        "--scheduler",
        "asha",
        "--cpus-per-trial",
        "2",
    )  # one at a time: the best comes first
    job = start(output, ray_address, *places, *grid, "--steps", "8", "--evaluate.every", "2", "--trials", "9")
    code, text = job.finish()
    assert code == 0, text
    study = study_of(output)
    trials = study.trials()
    assert [one.values["lr"] for one in trials] == [1e-3, 1e-5, 1e-6, 1e-7]
    assert [one.state for one in trials] == ["done", "stopped", "stopped", "stopped"], text
    assert "trial 1 stopped at step 2" in text
    assert "best: trial 0" in text
    assert [step for step, _ in trials[0].curve] == [2, 4, 6, 8]
    for one in trials:
        run = output / "trials" / str(one.number)
        told = {row["step"]: row["psnr"] for row in rows(output, one.number, "evaluation")}
        assert all(told[step] == value for step, value in one.curve)
        assert open_checkpoint(str(run)).step >= one.curve[-1][0]  # also of one that was stopped
        assert (one.notes["seed"], one.notes["seconds"] > 0) == (0, True)
    (tmp_path / "best.yaml").write_text(best_settings(str(output), None))
    best = parse("cidnet", ["--config", str(tmp_path / "best.yaml"), "--output", str(output / "trials" / "0")]).job
    repeated = parse("cidnet", ["--config", str(output / "trials" / "0" / "config.yaml")]).job
    assert best == repeated
    begun = {file: file.stat().st_mtime_ns for file in output.glob("trials/*/run.json")}
    code, text = start(
        output, ray_address, *places, *grid, "--steps", "8", "--evaluate.every", "2", "--trials", "9"
    ).finish()
    assert code == 0, text  # nothing is left to do
    assert begun == {file: file.stat().st_mtime_ns for file in output.glob("trials/*/run.json")}


@pytest.mark.slow
def test_two_metrics_are_weighed_and_a_longer_study_learns_from_a_shorter_one(
    tmp_path: Path, ray_address: str, places: tuple[str, ...]
) -> None:
    short, long = tmp_path / "short", tmp_path / "long"
    options = (*places, "--evaluate.every", "2", "--metric", "psnr,samples_per_s", "--trials", "2")
    code, text = start(short, ray_address, *options, "--steps", "4").finish()
    assert code == 0, text
    assert "short: cidnet, highest psnr and highest samples_per_s; 2 done" in text
    for one in study_of(short).trials():
        speeds = [row["samples_per_s"] for row in rows(short, one.number, "train")]
        assert one.figures == (rows(short, one.number, "evaluation")[-1]["psnr"], statistics.median(speeds))
    code, text = start(long, ray_address, *options, "--steps", "6", "--learn-from", str(short)).finish()
    assert code == 0, text
    assert f"learnt from 2 trials of {short}" in text
    short.rename(tmp_path / "gone")  # what was given is in the study's own records
    code, text = start(long, ray_address, *options, "--steps", "6", "--learn-from", str(short)).finish()
    assert code == 0, text
    study = study_of(long)
    assert [(one.number, one.state) for one in study.trials()] == [(2, "done"), (3, "done")]
    assert study.front()
    assert {one.number for one in study.front()} <= {2, 3}


def test_a_driver_that_was_killed_goes_on_and_another_one_beside_it_is_refused(
    tmp_path: Path, ray_address: str, places: tuple[str, ...]
) -> None:
    output = tmp_path / "study"
    options = (*places, "--algorithm", "random", "--steps", "300", "--evaluate.every", "4", "--checkpoint.every", "2")
    job = start(output, ray_address, *options, "--trials", "2")
    until(job, lambda: all(len(rows(output, number, "evaluation")) >= 2 for number in (0, 1)))
    code, text = start(output, ray_address, *options, "--trials", "2").finish()
    assert code == 2, text
    assert f"Another driver is at work on this study: process {job.process.pid} on " in text
    job.send(signal.SIGKILL)
    job.finish()
    values = [one.values for one in study_of(output).trials()]
    reached = [rows(output, number, "train")[-1]["step"] for number in (0, 1)]
    job = start(output, ray_address, *options, "--trials", "2")
    until(job, lambda: all(len(rows(output, number, "start")) == 2 for number in (0, 1)))
    resumed = [rows(output, number, "start")[-1]["step"] for number in (0, 1)]
    assert all(0 < step <= before for step, before in zip(resumed, reached, strict=True))
    job.send(signal.SIGTERM)
    code, text = job.finish()
    assert code == 75, text
    assert "the same command continues" in text
    study = study_of(output)
    assert [one.state for one in study.trials()] == ["running", "running"]
    assert [one.values for one in study.trials()] == values
    for one in study.trials():  # told without gaps over the kill
        steps = [step for step, _ in one.curve]
        assert steps == list(range(4, steps[-1] + 1, 4))
    assert not (output / "driver.json").exists()


@pytest.mark.slow
def test_trials_of_two_workers_that_are_stopped_free_all_they_took(
    tmp_path: Path, ray_address: str, places: tuple[str, ...]
) -> None:
    import ray

    output = tmp_path / "study"
    options = ("--algorithm", "grid", "--scheduler", "asha", "--workers", "2", "--steps", "6", "--evaluate.every", "2")
    code, text = start(output, ray_address, *places, *options, "--trials", "2").finish()
    assert code == 0, text
    assert [one.state for one in study_of(output).trials()] == ["done", "stopped"], text
    end = time.monotonic() + 30
    while ray.available_resources().get("CPU") != 2.0:
        assert time.monotonic() < end, ray.available_resources()
        time.sleep(0.5)


@pytest.mark.slow
def test_what_is_wrong_with_all_of_a_study_ends_it_at_once(
    tmp_path: Path, ray_address: str, places: tuple[str, ...]
) -> None:
    length = ("--steps", "200", "--evaluate.every", "2")
    code, text = start(tmp_path / "a", ray_address, *places, *length, "--metric", "psrn").finish()
    assert code == 2, text
    assert "error: --metric psrn: no evaluation reports it. Did you mean 'psnr'" in text
    assert len(rows(tmp_path / "a", 0, "train")) < 100
    code, text = start(tmp_path / "b", ray_address, *places, *length, "--cpus-per-trial", "3").finish()
    assert code == 2, text
    assert "A trial needs 3 cores and the cluster has 2" in text
    code, text = start(tmp_path / "a", ray_address, *places, *length).finish()
    assert code == 2, text
    assert "metric: the study has 'psrn', now it is 'psnr'" in text


@pytest.mark.slow
def test_trials_that_fail_are_marked_with_their_reason_and_the_study_goes_on(
    tmp_path: Path, ray_address: str, places: tuple[str, ...]
) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("lr: {choice: [1.0e+30, 1.0e-3]}\nwarmup: {choice: [0, 99]}\n")
    output = tmp_path / "study"
    options = ("--space", str(space), "--algorithm", "grid", "--steps", "24", "--evaluate.every", "24")
    code, text = start(output, ray_address, *places, *options, "--trials", "4").finish()
    assert code == 0, text
    nan, long, done, long_too = study_of(output).trials()
    assert [one.state for one in (nan, long, done, long_too)] == ["failed", "failed", "done", "failed"], text
    assert "not finite, 20 steps in a row" in nan.notes["reason"] or "is not a number" in nan.notes["reason"]
    assert "warm-up" in long.notes["reason"] or "warmup" in long.notes["reason"]
    assert f"trial 1 failed: {long.notes['reason'].splitlines()[0]}" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--metric", "none"), "--metric is missing"),
        (("--val-shards", "none"), "--val-shards are missing"),
        (("--scheduler", "asha"), "--scheduler asha needs --evaluate.every"),
        (
            ("--metric", "psnr,ssim", "--scheduler", "median", "--evaluate.every", "2"),
            "names 2; leave out the scheduler",
        ),
        (("--algorithm", "random", "--learn-from", "studies/a"), "--learn-from needs --algorithm tpe"),
        (("--learn-from", "nowhere"), "nowhere: there is no study"),
        (("--grace", "5"), "--grace needs --scheduler asha, hyperband or median"),
        (("--storage", "mysql://a"), "--storage must be postgresql://"),
        (("--resume", "never"), "--resume is of one run"),
        (("--scheduler", "pbt", "--evaluate.every", "2", "--algorithm", "tpe"), "leave out --algorithm"),
        (("--space", "nowhere.yaml"), "--space nowhere.yaml: cannot be read"),
        (("--algorithm", "grid", "--space", str(ROOT / "models/lumizoo/cidnet/space.yaml")), "lr has no end of them"),
        (("--storage", "postgresql://me:hush@127.0.0.1:9/s"), "postgresql://127.0.0.1:9/s cannot be used"),
    ],
)
def test_bad_use_is_said_before_anything_starts(
    tmp_path: Path, places: tuple[str, ...], options: tuple[str, ...], message: str
) -> None:
    code, text = start(tmp_path / "study", "127.0.0.1:9", *places, "--steps", "4", *options).finish()
    assert code in (1, 2), text
    assert message in text
    assert "Traceback" not in text
    assert not (tmp_path / "study" / "trials").exists()
    assert os.environ.get("PGPASSWORD", "hush") not in text


@pytest.mark.slow
def test_a_trial_whose_process_dies_goes_on_and_is_marked_when_it_dies_again(
    tmp_path: Path, ray_address: str, places: tuple[str, ...]
) -> None:
    output = tmp_path / "study"
    options = ("--algorithm", "random", "--steps", "500", "--evaluate.every", "2", "--trials", "1")
    job = start(output, ray_address, *places, *options, "--trial-retries", "1")

    def has_started(attempt: int) -> bool:
        starts, evaluations = (rows(output, 0, kind) for kind in ("start", "evaluation"))
        return len(starts) == attempt and bool(evaluations) and evaluations[-1]["step"] >= starts[-1]["step"] + 8

    for attempt in (1, 2):
        until(job, functools.partial(has_started, attempt))
        found: list[psutil.Process] = []
        until(job, functools.partial(found_trial, found))
        found[0].kill()
    code, text = job.finish()
    assert code == 1, text
    assert rows(output, 0, "start")[1]["step"] > 0  # from its checkpoint
    (trial,) = study_of(output).trials()
    assert trial.state == "failed"
    assert "its process failed 2 times" in trial.notes["reason"]
    assert "All 1 trials failed; the first: its process failed 2 times" in text
