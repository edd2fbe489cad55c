"""Records of a study: what they keep, that they go on after anything, and that they refuse what is another study."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

import optuna
import pytest

from lumiray.errors import RunFailure, UserError
from lumiray.tune.metric import metrics_of
from lumiray.tune.options import grid_size
from lumiray.tune.place import Place, place_of
from lumiray.tune.space import Axis, Choice, Interval, Space, Whole
from lumiray.tune.study import Study, described, open_study

SPACE = Space(
    (
        Axis("lr", Interval(1e-4, 1e-2, log=True)),
        Axis("channels", Choice(([4, 4, 8, 8], [8, 8, 8, 8]))),
        Axis("optimizer.schedule", Choice(("cosine", "constant-cooldown"))),
        Axis("optimizer.cooldown", Whole(1, 5), (("optimizer.schedule", ("constant-cooldown",)),)),
    )
)
GRID = Space((Axis("seed", Whole(0, 2)), Axis("channels", Choice(([4, 4, 8, 8], [8, 8, 8, 8])))))
ABOUT = {"system": "cidnet", "metric": "psnr", "settings.lr": None} | described(SPACE)


def new(folder: Path, **about: object) -> Study:
    return open_study(place_of(str(folder), None, new=True), "study", ABOUT | about)


def test_values_curves_and_ends_are_kept(tmp_path: Path) -> None:
    study = new(tmp_path)
    numbers = [study.ask(SPACE, "tpe", seed=0).number for _ in range(3)]
    study.report(0, 10, 20.5)
    study.report(0, 20, 21.5)
    study.report(1, 10, 18.0)
    study.finish(0, "done", 21.5, seconds=3.5)
    study.finish(1, "stopped")
    study.finish(2, "failed", reason="psnr is not a number")
    again = open_study(place_of(str(tmp_path), None), "study")
    first, second, third = again.trials()
    assert numbers == [0, 1, 2]
    assert (first.state, first.value, first.curve) == ("done", 21.5, ((10, 20.5), (20, 21.5)))
    assert (first.notes["seconds"], third.notes["reason"]) == (3.5, "psnr is not a number")
    assert (second.state, second.value, second.last, third.state) == ("stopped", None, 18.0, "failed")
    assert again.best() == first
    for one in (first, second, third):
        assert 1e-4 <= one.values["lr"] <= 1e-2
        assert one.values["channels"] in ([4, 4, 8, 8], [8, 8, 8, 8])
        assert ("optimizer.cooldown" in one.values) == (one.values["optimizer.schedule"] == "constant-cooldown")


def test_the_lowest_is_best_with_a_minus(tmp_path: Path) -> None:
    study = new(tmp_path, metric="-loss")
    for value in (3.0, 1.0, 2.0):
        study.finish(study.ask(SPACE, "random", 0).number, "done", value)
    assert study.best() == study.trials()[1]


def test_of_two_metrics_the_front_is_what_no_trial_beats_at_both(tmp_path: Path) -> None:
    study = new(tmp_path, metric="psnr,-loss")
    for figures in ((20.0, 1.0), (25.0, 3.0), (19.0, 1.5), (22.0, 2.0)):
        study.finish(study.ask(SPACE, "tpe", 0).number, "done", figures)
    again = new(tmp_path, metric="psnr,-loss")
    assert [one.number for one in again.front()] == [1, 3, 0]
    assert again.trials()[2].figures == (19.0, 1.5)
    best = again.best()
    assert best is not None
    assert (best.number, best.value) == (1, 25.0)
    with pytest.raises(UserError, match="metric: the study has 'psnr,-loss', now it is 'psnr'"):
        new(tmp_path)


def test_tpe_looks_along_the_whole_front_of_two_metrics(tmp_path: Path) -> None:
    study = new(tmp_path, metric="-a,-b")  # the front: any lr of [1e-3.5, 1e-2.5], channels of the first choice
    for _ in range(50):
        trial = study.ask(SPACE, "tpe", seed=1)
        at = math.log10(trial.values["lr"]) + 3
        worse = float(trial.values["channels"] == [8, 8, 8, 8])
        study.finish(trial.number, "done", ((at - 0.5) ** 2 + worse, (at + 0.5) ** 2 + worse))
    late = [(one.values["channels"], abs(math.log10(one.values["lr"]) + 3)) for one in study.trials()[-25:]]
    assert sum(channels == [4, 4, 8, 8] and at <= 0.5 for channels, at in late) >= 12  # by chance a quarter
    places = [math.log10(one.values["lr"]) + 3 for one in study.front()]
    assert min(places) < -0.2 < 0.2 < max(places)
    assert set(study.importance(0)) == set(study.importance(1))


@pytest.mark.parametrize(("written", "message"), [("psnr,", "a name is missing"), ("a,-a", "a is named twice")])
def test_metrics_that_cannot_be_are_refused(written: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        metrics_of(written)


@pytest.mark.parametrize("algorithm", ["random", "tpe"])
def test_the_same_values_are_drawn_whatever_happened_to_the_driver(tmp_path: Path, algorithm: str) -> None:
    drawn = []
    for name, sessions in (("uncut", 1), ("cut", 4)):
        found = []
        for _ in range(sessions):
            study = new(tmp_path / name)
            for _ in range(12 // sessions):
                trial = study.ask(SPACE, algorithm, seed=3)
                study.finish(trial.number, "done", -abs(math.log10(trial.values["lr"]) + 3))
                found.append(dict(trial.values))
        drawn.append(found)
    assert drawn[0] == drawn[1]
    assert len({one["lr"] for one in drawn[0]}) == 12


def test_tpe_comes_nearer_with_every_trial_and_the_important_field_is_told(tmp_path: Path) -> None:
    study, distances = new(tmp_path), []
    for _ in range(60):
        trial = study.ask(SPACE, "tpe", seed=1)
        distances.append(abs(math.log10(trial.values["lr"]) + 3))  # at random 0.5 on average
        study.finish(trial.number, "done", -distances[-1])
    assert sum(distances[-20:]) / 20 < 0.3
    assert next(iter(study.importance())) == "lr"


def test_a_grid_is_every_combination_once_also_across_drivers(tmp_path: Path) -> None:
    assert grid_size(GRID) == 6
    found = []
    for _ in range(2):
        study = new(tmp_path)
        for _ in range(3):
            trial = study.ask(GRID, "grid", seed=0)
            found.append((trial.values["seed"], tuple(trial.values["channels"])))
    assert len(set(found)) == 6
    assert found[:2] == [(0, (4, 4, 8, 8)), (0, (8, 8, 8, 8))]
    with pytest.raises(UserError, match="lr has no end of them"):
        grid_size(SPACE)


def test_another_study_is_refused_difference_by_difference(tmp_path: Path) -> None:
    new(tmp_path, metric="-loss")
    new(tmp_path).ask(SPACE, "random", 0)  # the one before had no trial yet: a mistake in it can be mended
    with pytest.raises(UserError) as refused:
        new(tmp_path, system="clip", **{"space.lr": "uniform from 0 to 1"})
    assert "system: the study has 'cidnet', now it is 'clip'" in str(refused.value)
    assert "space.lr: the study has 'loguniform from 0.0001 to 0.01', now" in str(refused.value)


def test_what_is_no_study_of_ours_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no study"):
        place_of(str(tmp_path), None)
    new(tmp_path)
    with pytest.raises(UserError, match="there is no study 'other'; there are \\['study'\\]"):
        open_study(place_of(str(tmp_path), None), "other")
    optuna.create_study(study_name="theirs", storage=f"sqlite:///{tmp_path}/study.db")
    with pytest.raises(UserError, match="was not made by a search"):
        open_study(place_of(str(tmp_path), None), "theirs")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "study.db").write_text("no database at all, but long enough to look at")
    with pytest.raises(RunFailure, match="cannot be used: file is not a database"):
        open_study(place_of(str(tmp_path / "broken"), None), "study")


def test_a_database_that_does_not_answer_is_said_without_its_password() -> None:
    with pytest.raises(RunFailure, match=r"postgresql://127\.0\.0\.1:9/studies cannot be used: .*refused") as refused:
        open_study(Place("postgresql://me:hush-hush@127.0.0.1:9/studies"), "study", ABOUT)
    assert "hush-hush" not in str(refused.value)


def test_with_an_output_on_s3_every_end_is_there_for_the_next_driver(s3: str) -> None:
    output = f"{s3}/studies/a"
    study = open_study(place_of(output, None, new=True), "study", ABOUT)
    assert study.place.local
    assert study.place.local != study.place.copy
    study.finish(study.ask(SPACE, "random", 0).number, "done", 1.5)
    study.ask(SPACE, "random", 0)
    again = open_study(place_of(output, None), "study")
    assert [(one.state, one.value) for one in again.trials()] == [("done", 1.5), ("running", None)]
    with pytest.raises(UserError, match="there is no study"):
        place_of(f"{s3}/studies/b", None)


def test_the_records_hold_nothing_pickled(tmp_path: Path) -> None:
    study = new(tmp_path)
    study.finish(study.ask(SPACE, "tpe", 0).number, "done", 1.0, seconds=1.0)
    with sqlite3.connect(tmp_path / "study.db") as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master where type='table'")]
        cells = [cell for table in tables for row in database.execute(f"select * from {table}") for cell in row]
    assert not any(isinstance(cell, bytes) for cell in cells)
