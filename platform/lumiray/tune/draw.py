"""Values of a trial, drawn by Optuna's samplers from a space, and how Optuna keeps them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from typing import Any

import optuna
from optuna.trial import BaseTrial, FixedTrial

from lumiray.tune.options import values_of
from lumiray.tune.space import Axis, Interval, Space, Whole


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna's notes on its own experiments are not for the user of a search."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield


def sampler(algorithm: str, seed: int, number: int) -> optuna.samplers.BaseSampler:
    """What chooses the values of a trial by its number."""
    drawn = (seed * 1_000_003 + number) % 2**32
    with quiet():
        if algorithm == "tpe":
            return optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=drawn)
        return optuna.samplers.RandomSampler(seed=drawn)


def drawn(space: Space, asked: BaseTrial) -> dict[str, Any]:
    """Values of all axes that apply, as Optuna's sampler chooses them."""
    values: dict[str, Any] = {}
    for axis in space.axes:
        if axis.applies(values):
            values[axis.field] = suggested(asked, axis)
    return values


def fixed(space: Space, values: Mapping[str, Any]) -> FixedTrial:
    """Given values as Optuna's parameters."""
    found = FixedTrial({field: category(value) for field, value in values.items()})
    for axis in space.axes:
        if axis.field in values:
            suggested(found, axis)
    return found


def suggested(asked: BaseTrial, axis: Axis) -> Any:
    """An axis's value, plain as in YAML."""
    over = axis.over
    with quiet():
        if isinstance(over, Interval):
            return asked.suggest_float(axis.field, over.low, over.high, log=over.log)
        if isinstance(over, Whole):
            return asked.suggest_int(axis.field, over.low, over.high, step=over.step)
        named = {category(one): one for one in over.values}
        return named[asked.suggest_categorical(axis.field, list(named))]


def category(value: Any) -> Any:
    """A choice as Optuna keeps it: lists as text."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else json.dumps(value)


def combination(space: Space, number: int) -> dict[str, Any]:
    """The values of a grid's trial as Optuna keeps them; the last axis changes fastest."""
    everything = list(product(*(values_of(axis.over) for axis in space.axes)))
    chosen = everything[number % len(everything)]
    return {axis.field: category(one) for axis, one in zip(space.axes, chosen, strict=True)}
