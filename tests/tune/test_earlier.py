"""Studies that learn from trials of another one, which stay that one's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from lumiray.errors import UserError
from lumiray.tune.earlier import earlier_trials
from lumiray.tune.options import SearchOptions
from lumiray.tune.place import place_of
from lumiray.tune.space import Axis, Choice, Interval, Space, Whole
from lumiray.tune.study import Study, described, open_study

SPACE = Space(
    (
        Axis("lr", Interval(1e-4, 1e-2, log=True)),
        Axis("optimizer.schedule", Choice(("cosine", "constant-cooldown"))),
        Axis("optimizer.cooldown", Whole(1, 5), (("optimizer.schedule", ("constant-cooldown",)),)),
    )
)
NARROW = Space((Axis("lr", Interval(1e-3, 1e-2, log=True)), *SPACE.axes[1:]))


def new(folder: Path, space: Space = SPACE, **about: object) -> Study:
    told = {"system": "cidnet", "metric": "psnr"} | described(space) | about
    return open_study(place_of(str(folder), None, new=True), folder.name, told)


def distance(values: Mapping[str, float]) -> float:
    return abs(math.log10(values["lr"]) + 2.5)  # at random 0.63 on average


@pytest.fixture
def source(tmp_path: Path) -> str:
    study = new(tmp_path / "short")
    for _ in range(20):
        trial = study.ask(SPACE, "random", seed=0)
        study.finish(trial.number, "done", -distance(trial.values))
    study.finish(study.ask(SPACE, "random", seed=0).number, "failed", reason="it was to be")
    return str(tmp_path / "short")


def options(source: str, metric: str = "psnr") -> SearchOptions:
    return SearchOptions(metric=metric, learn_from=source)


def test_the_first_trials_are_near_what_was_good_before_and_the_others_are_not_its_own(
    tmp_path: Path, source: str
) -> None:
    given = earlier_trials(options(source), "cidnet", SPACE, str(tmp_path / "long"))
    assert len(given) == 20
    study = new(tmp_path / "long")
    study.take(SPACE, given, source)
    first = [study.ask(SPACE, "tpe", seed=3) for _ in range(8)]
    assert sum(distance(one.values) for one in first) / 8 < 0.4
    study.finish(first[0].number, "done", -9.0)  # worse than all that was given, which stays the other study's
    again = new(tmp_path / "long")
    assert len(again.trials()) == 8
    assert again.best() == again.trials()[0]
    assert [one.notes["given"] for one in again.given()] == [{"study": source, "trial": n} for n in range(20)]
    again.take(SPACE, given[:3], source)  # a driver that goes on gives them again
    assert len(again.given()) == 20


def test_only_what_lies_in_the_space_is_given(tmp_path: Path, source: str) -> None:
    given = earlier_trials(options(source), "cidnet", NARROW, str(tmp_path / "long"))
    assert 0 < len(given) < 20
    assert all(one.values["lr"] >= 1e-3 for one in given)


def test_a_study_of_something_else_is_refused(tmp_path: Path, source: str) -> None:
    output = str(tmp_path / "long")
    with pytest.raises(UserError, match="is a study of cidnet, and this one is of clip"):
        earlier_trials(options(source), "clip", SPACE, output)
    with pytest.raises(UserError, match="looked for --metric psnr, and this study for -loss"):
        earlier_trials(options(source, "-loss"), "cidnet", SPACE, output)
    with pytest.raises(UserError, match=r"only one varies optimizer\.cooldown, optimizer\.schedule"):
        earlier_trials(options(source), "cidnet", Space(SPACE.axes[:1]), output)
    far = Space((Axis("lr", Interval(1.0, 2.0)), *SPACE.axes[1:]))
    with pytest.raises(UserError, match="of its 20 trials that are done none lies"):
        earlier_trials(options(source), "cidnet", far, output)
    with pytest.raises(UserError, match="is the --output"):
        earlier_trials(options(source), "cidnet", SPACE, source)
    with pytest.raises(UserError, match="there is no study"):
        earlier_trials(options(output), "cidnet", SPACE, source)
