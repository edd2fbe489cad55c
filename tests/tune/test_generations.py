"""Records of a population: what they keep of its generations, and what is not claimed of its trials."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.settings import default_job

from lumiray.errors import UserError
from lumiray.settings_file import to_yaml
from lumiray.tune.earlier import earlier_trials
from lumiray.tune.generations import Generation, lineage
from lumiray.tune.options import SearchOptions
from lumiray.tune.place import place_of
from lumiray.tune.repeat import repeat
from lumiray.tune.space import Axis, Choice, Interval, Space
from lumiray.tune.study import Study, described, open_study
from lumiray.tune.summary import best_settings, shown

SPACE = Space((Axis("lr", Interval(1e-4, 1e-2, log=True)), Axis("random_gamma", Choice((False, True)))))
LATER = {"lr": 2e-3, "random_gamma": True}


def new(folder: Path) -> Study:
    about = {"system": "cidnet", "metric": "psnr", "job": to_yaml(default_job("cidnet"))} | described(SPACE)
    return open_study(place_of(str(folder), None, new=True), folder.name, about)


@pytest.fixture
def output(tmp_path: Path) -> str:
    """Two trials, of which the second went on from the first."""
    study = new(tmp_path / "study")
    first, second = study.draw(SPACE, 0), study.draw(SPACE, 0)
    study.live(second.number, [*second.generations, Generation(10, LATER, (first.number, 0))])
    study.decide(10)
    for number, value in enumerate((20.0, 21.0)):
        study.report(number, 10, value)
        study.settle(number, SPACE)
        study.finish(number, "done", value)
    return str(tmp_path / "study")


def test_values_of_a_trial_are_its_last_ones_also_as_optunas_parameters(output: str) -> None:
    study = new(Path(output))
    first, second = study.trials()
    assert (first.folder, second.folder) == ("0/0", "1/1")
    assert second.values == LATER
    assert second.generations[1] == Generation(10, LATER, (0, 0))
    assert second.generations[0].values != LATER
    assert [dict(one.params) for one in study._study.trials] == [dict(first.values), LATER]
    assert study.decided == 10
    assert list(lineage(1, second.generations)) == [
        "    step 10: trial 1 goes on from trial 0 with lr 0.002, random_gamma True"
    ]


def test_draws_follow_from_seed_and_number_also_where_a_driver_was_killed_between_two_lines(tmp_path: Path) -> None:
    whole, killed = new(tmp_path / "a"), new(tmp_path / "b")
    drawn = [whole.draw(SPACE, 3) for _ in range(3)]
    killed.draw(SPACE, 3)
    killed._study.ask()  # begun, and not drawn yet
    again = [killed.draw(SPACE, 3) for _ in range(2)]
    assert [(one.number, one.values) for one in again] == [(one.number, one.values) for one in drawn[1:]]
    assert len({one.values["lr"] for one in drawn}) == 3
    killed.settle(0, SPACE)
    killed.settle(0, SPACE)  # a driver was killed before it could end the trial


def test_lineage_is_shown_and_settings_say_what_they_are_not(output: str) -> None:
    text = shown(output, None)
    assert "step 10: trial 1 goes on from trial 0 with lr 0.002, random_gamma True" in text
    page = (Path(output) / "report.html").read_text()
    assert "<h2>Taken over</h2>" in page
    assert "step 10: trial 1 goes on from trial 0" in page
    settings = best_settings(output, None)
    assert "these are the last ones, and its result is in trials/1/1" in settings
    assert "lr: 0.002" in settings
    assert "the last ones" not in best_settings(output, None, 0)


def test_what_a_trials_last_values_are_worth_is_not_claimed(tmp_path: Path, output: str) -> None:
    with pytest.raises(UserError, match=r"Trial 1 went on from other trials' checkpoints .* no settings to repeat"):
        repeat(output, 1, 3)
    options = SearchOptions(metric="psnr", learn_from=output)
    with pytest.raises(UserError, match="trained a population"):
        earlier_trials(options, "cidnet", SPACE, str(tmp_path / "next"))
