"""Whether a lead is larger than the noise: what is compared, and that it is run under the seeds that are named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import ROOT
from tests.settings import default_job
from tests.tune.test_search import places

from lumiray.command import parse
from lumiray.errors import RunFailure, UserError
from lumiray.settings_file import to_yaml
from lumiray.tune.place import place_of
from lumiray.tune.repeat import leads, repeat, told
from lumiray.tune.space import Axis, Interval, Space
from lumiray.tune.study import Study, Trial, described, open_study

__all__ = ["places"]
SPACE = Space((Axis("lr", Interval(1e-5, 1e-2, log=True)),))
WINNER = Trial(3, "done", {"lr": 1e-3})


def repeated(folder: Path, metric: str, values: list[tuple[float, float]]) -> Study:
    """Records of a repetition: (the winner's, the shared settings') figures of seeds 1, 2, ..."""
    about = {"system": "cidnet", "metric": metric} | described(SPACE)
    study = open_study(place_of(str(folder), None, new=True), "repeat", about)
    for seed, pair in enumerate(values, 1):
        for setting, value in zip(({"lr": 1e-3}, {}), pair, strict=True):
            study.finish(study.begin({**setting, "seed": seed}).number, "done", value)
    return study


@pytest.mark.parametrize(
    ("metric", "values", "verdict"),
    [
        ("psnr", [(22.0, 21.0), (22.2, 21.1), (21.9, 21.0)], "mean +1, 95 % interval +/- 0.248: larger than the noise"),
        ("psnr", [(22.0, 21.0), (21.0, 21.9), (21.9, 21.2)], "not larger than the noise"),
        ("psnr", [(20.0, 21.0), (20.2, 21.1), (19.9, 21.0)], "the shared settings are better"),
        ("-loss", [(1.0, 2.0), (1.2, 2.1), (1.1, 2.2)], "larger than the noise"),
    ],
)
def test_leads_are_compared_seed_by_seed(
    tmp_path: Path, metric: str, values: list[tuple[float, float]], verdict: str
) -> None:
    study = repeated(tmp_path, metric, values)
    text = told(leads(study, [1, 2, 3]), WINNER, study.metric)
    assert verdict in text
    assert text.count("seed ") == 3


def test_one_seed_says_nothing(tmp_path: Path) -> None:
    study = repeated(tmp_path, "psnr", [(22.0, 21.0)])
    with pytest.raises(RunFailure, match=r"Only 1 seed\(s\) came to the end"):
        leads(study, [1, 2])
    with pytest.raises(UserError, match="--seeds is 1; it must be at least 2"):
        repeat(str(tmp_path), None, 1)


def test_a_trial_that_is_not_there_is_said(tmp_path: Path) -> None:
    about = {"system": "cidnet", "metric": "psnr", "job": to_yaml(default_job("cidnet"))} | described(SPACE)
    study = open_study(place_of(str(tmp_path / "s"), None, new=True), "s", about)
    with pytest.raises(RunFailure, match="no trial of this study is done yet"):
        repeat(str(tmp_path / "s"), None, 2)
    study.finish(study.ask(SPACE, "random", 0).number, "done", 20.0)
    with pytest.raises(UserError, match="--trial 7: the study has trials 0 to 0"):
        repeat(str(tmp_path / "s"), 7, 2)


@pytest.mark.slow
def test_the_winner_and_the_shared_settings_run_under_each_seed(
    tmp_path: Path, ray_address: str, places: tuple[str, ...]
) -> None:
    small = ("--channels", "4", "4", "8", "8", "--heads", "1", "2", "2", "4", "--perceptual-weight", "0")
    training = ("--crop-size", "32", "--global-batch-size", "2", "--micro-batch-size", "2", "--steps", "2")
    job = parse("cidnet", [*small, *training, *places[:4], "--warmup", "0", "--lr", "1e-7", "--output", "x"]).job
    about = {"system": "cidnet", "metric": "psnr", "job": to_yaml(job)} | described(SPACE)
    output = tmp_path / "study"
    study = open_study(place_of(str(output), None, new=True), "study", about)
    study.finish(study.ask(SPACE, "random", 0).number, "done", 20.0)
    environment = os.environ | {"RAY_ADDRESS": ray_address, "PYTHONPATH": f"{ROOT}/platform:{ROOT}/models"}
    done = subprocess.run(
        [sys.executable, "-m", "lumiray", "study", "repeat", str(output), "--seeds", "2"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lead of trial 0 over the settings that all trials share, psnr" in done.stdout
    folder = output / "repeats" / "0"
    again = open_study(place_of(str(folder), None), "study-repeat-0")
    rate = study.trials()[0].values["lr"]
    values = [(one.values["seed"], one.values.get("lr")) for one in again.trials()]
    assert values == [(1, rate), (1, None), (2, rate), (2, None)]
    assert len({one.value for one in again.trials()}) == 4
