"""Trials of an earlier study that another one learns from; they are recorded there as given, not as its own."""

from __future__ import annotations

from typing import Any

from lumiray.errors import UserError
from lumiray.storage import absolute
from lumiray.tune.options import SearchOptions
from lumiray.tune.space import Axis, Choice, Interval, Space
from lumiray.tune.study import Trial
from lumiray.tune.summary import named_study, searched


def earlier_trials(options: SearchOptions, slug: str, space: Space, output: str) -> list[Trial]:
    """Those trials of `options.learn_from` that are done and lie in a space.

    Args:
        slug: the system that the trials must be of.
        output: of the study that learns.

    Raises:
        UserError: there is no such study, or it looked for something else; or no trial of it fits.
    """
    source = str(options.learn_from)
    if absolute(source) == absolute(output):
        raise UserError(f"--learn-from {source} is the --output; the same command goes on with it by itself.")
    study = named_study(source, options.storage)
    if study.about["system"] != slug:
        raise UserError(f"--learn-from {source} is a study of {study.about['system']}, and this one is of {slug}.")
    if study.metrics != options.metrics:
        raise UserError(
            f"--learn-from {source} looked for --metric {study.about['metric']}, and this study for {options.metric}."
        )
    if any(one.generations for one in study.trials()):
        raise UserError(
            f"--learn-from {source} trained a population: its trials changed their values on the way, and none of them "
            "tells what its last values are worth."
        )
    fields, own = set(searched(study)), {axis.field for axis in space.axes}
    if fields != own:
        differing = ", ".join(sorted(fields ^ own))
        raise UserError(f"--learn-from {source} must vary the same fields as this study; only one varies {differing}.")
    done = [one for one in study.trials() if one.state == "done"]
    fitting = [one for one in done if lies_in(space, one)]
    if not fitting:
        raise UserError(f"--learn-from {source}: of its {len(done)} trials that are done none lies in this space.")
    print(f"learning from {len(fitting)} of {len(done)} trials of {source} that are done", flush=True)
    return fitting


def lies_in(space: Space, trial: Trial) -> bool:
    """Whether a space could give a trial's values."""
    applying = {axis.field: axis for axis in space.axes if axis.applies(trial.values)}
    return applying.keys() == trial.values.keys() and all(
        _holds(axis, trial.values[field]) for field, axis in applying.items()
    )


def _holds(axis: Axis, value: Any) -> bool:
    over = axis.over
    if isinstance(over, Choice):
        return any(one == value and type(one) is type(value) for one in over.values)
    if isinstance(over, Interval):
        return isinstance(value, (int, float)) and over.low <= value <= over.high
    return isinstance(value, int) and value in range(over.low, over.high + 1, over.step)
