"""Which trials end early: Ray Tune's schedulers, told again what trials of a driver before had reached."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from lumiray.tune.options import SearchOptions
from lumiray.tune.study import Trial
from lumiray.tune.trial import STEP, VALUE

BRACKETS = 3  # of HyperBand: trials that are first compared at 1, 4 and 16 times the grace


@dataclass(frozen=True)
class StandIn:
    """What a scheduler looks at in a trial.

    Args:
        config: holds its `number`.
    """

    trial_id: str
    config: dict[str, int]


class HyperBand(AsyncHyperBandScheduler):
    """Asynchronous HyperBand of Ray Tune, with a trial's bracket following from its number.

    Ray draws brackets from a generator that nobody seeds: a trial that goes on after a kill could change its own.
    """

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Give a trial its bracket, with the shares that Ray gives them (1 : 1/e : 1/e^2)."""
        super().on_trial_add(tune_controller, trial)
        shares = [math.exp(-place) for place in range(len(self._brackets))]
        drawn = random.Random(trial.config["number"])
        self._trial_info[trial.trial_id] = drawn.choices(self._brackets, shares)[0]


def make_scheduler(options: SearchOptions, every: int, longest: int) -> TrialScheduler:
    """The scheduler that a search asks for.

    Args:
        every: steps between evaluations.
        longest: at least the steps of the longest trial.
    """
    grace, mode = options.grace or every, options.metrics[0].mode
    if options.scheduler in ("asha", "hyperband"):
        return HyperBand(
            **{"time_attr": STEP, "metric": VALUE, "mode": mode, "max_t": longest, "grace_period": grace},
            brackets=BRACKETS if options.scheduler == "hyperband" else 1,
            stop_last_trials=False,
        )
    if options.scheduler == "median":
        return MedianStoppingRule(time_attr=STEP, metric=VALUE, mode=mode, grace_period=grace)
    return FIFOScheduler()


def replayed(scheduler: TrialScheduler, trials: Sequence[Trial]) -> None:
    """Tell a new scheduler the curves of trials that ended, so that it compares with them; what it says is ignored."""
    for one in trials:
        if not one.curve:
            continue
        stand_in: Any = StandIn(f"earlier-{one.number}", {"number": one.number})
        scheduler.on_trial_add(None, stand_in)
        rows = [{STEP: step, VALUE: value} for step, value in one.curve]
        for row in rows:
            scheduler.on_trial_result(None, stand_in, row)
        scheduler.on_trial_complete(None, stand_in, rows[-1])
