"""Which trials end early, by curves that were made up."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from lumiray.tune.options import SearchOptions
from lumiray.tune.schedule import BRACKETS, StandIn, make_scheduler, replayed
from lumiray.tune.study import Trial
from lumiray.tune.trial import STEP, VALUE

COUNT, LONG = 60, 10**9


def first_ends(name: str, metric: str = "psnr") -> list[float]:
    """Steps at which each of many trials with ever worse curves is ended; infinite for one that is not."""
    scheduler = make_scheduler(SearchOptions(metric=metric, scheduler=name, grace=2), 2, LONG)  # type: ignore[arg-type]
    sign = -1 if metric.startswith("-") else 1
    ends = []
    for number in range(COUNT):
        trial: Any = StandIn(str(number), {"number": number})
        scheduler.on_trial_add(None, trial)
        said = (
            (step, scheduler.on_trial_result(None, trial, {STEP: step, VALUE: sign * (step - number)}))
            for step in range(2, 65, 2)
        )
        ends.append(next((step for step, one in said if one == TrialScheduler.STOP), math.inf))
    return ends


@pytest.mark.parametrize("metric", ["psnr", "-loss"])
def test_hyperband_begins_to_compare_at_three_ages_and_asha_at_one(metric: str) -> None:
    assert set(first_ends("asha", metric)[1:]) == {2}
    later = Counter(first_ends("hyperband", metric))
    assert set(later) == {2, 8, 32, math.inf}
    assert later[2] > later[8] > later[32]
    assert later[math.inf] <= BRACKETS  # the first of each bracket has nobody to be compared with


def test_the_bracket_of_a_trial_is_the_same_under_every_driver() -> None:
    assert first_ends("hyperband") == first_ends("hyperband")


def test_trials_of_a_driver_before_are_compared_with() -> None:
    scheduler = make_scheduler(SearchOptions(metric="psnr", scheduler="hyperband", grace=2), 2, LONG)
    curve = tuple((step, 100.0) for step in (2, 8, 32))
    replayed(scheduler, [Trial(number, "done", {}, curve, (100.0,)) for number in range(COUNT)])
    for number in range(COUNT, COUNT + 9):
        trial: Any = StandIn(str(number), {"number": number})
        scheduler.on_trial_add(None, trial)
        assert scheduler.on_trial_result(None, trial, {STEP: 32, VALUE: 1.0}) == TrialScheduler.STOP
