"""Which trials end early: Ray Tune's schedulers, told again what trials of a driver before had reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from lumiray.tune.options import SearchOptions
from lumiray.tune.study import Trial
from lumiray.tune.trial import STEP, VALUE


@dataclass(frozen=True)
class StandIn:
    """What a scheduler looks at in a trial: its identity."""

    trial_id: str


def make_scheduler(options: SearchOptions, every: int, longest: int) -> TrialScheduler:
    """The scheduler that a search asks for.

    Args:
        every: steps between evaluations.
        longest: at least the steps of the longest trial.
    """
    grace, mode = options.grace or every, options.metrics[0].mode
    if options.scheduler == "asha":
        return AsyncHyperBandScheduler(
            time_attr=STEP, metric=VALUE, mode=mode, max_t=longest, grace_period=grace, stop_last_trials=False
        )
    if options.scheduler == "median":
        return MedianStoppingRule(time_attr=STEP, metric=VALUE, mode=mode, grace_period=grace)
    return FIFOScheduler()


def replayed(scheduler: TrialScheduler, trials: Sequence[Trial]) -> None:
    """Tell a new scheduler the curves of trials that ended, so that it compares with them; what it says is ignored."""
    for one in trials:
        if not one.curve:
            continue
        stand_in: Any = StandIn(f"earlier-{one.number}")
        scheduler.on_trial_add(None, stand_in)
        rows = [{STEP: step, VALUE: value} for step, value in one.curve]
        for row in rows:
            scheduler.on_trial_result(None, stand_in, row)
        scheduler.on_trial_complete(None, stand_in, rows[-1])
