"""An exponential average of a player's weights (EMA): fp32, each rank its own part, beside the master weights.

Frozen weights and buffers are not averaged: they are those of training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lumiray.train.layout import in_memory, layout_of, rewriting

AVERAGE = "average"  # what a checkpoint calls it, where moments have names such as exp_avg


def start_average(engine: Any) -> None:
    """Begin with the weights as they are.  To be called once, when the engine is made."""
    found = []
    for number in range(len(layout_of(engine).partitions)):
        with in_memory(engine, number) as one:
            found.append(one.flat.detach().clone())
    engine.__dict__["_lumiray_average"] = found  # kept on the engine, so that both go together


def average_of(engine: Any) -> list[Tensor] | None:
    """The averages, one for every partition of the layout and of its shape; None where nothing is averaged."""
    found: list[Tensor] | None = engine.__dict__.get("_lumiray_average")
    return found


def update_average(engine: Any, decay: float) -> None:
    """After an applied step: average = decay * average + (1 - decay) * weights."""
    with torch.no_grad():
        for number, average in enumerate(average_of(engine) or ()):
            with in_memory(engine, number) as one:
                average.lerp_(one.flat, 1 - decay)


@contextmanager
def averaged(engine: Any) -> Iterator[None]:
    """While inside, the networks compute with the averaged weights, if there are any.  Every rank must enter."""
    if average_of(engine) is None:
        yield
        return
    _exchange(engine)
    try:
        yield
    finally:
        _exchange(engine)


def _exchange(engine: Any) -> None:
    with torch.no_grad(), rewriting(engine):
        for number, average in enumerate(average_of(engine) or ()):
            with in_memory(engine, number, write=True) as one:
                weights = one.flat.detach().clone()
                one.flat.copy_(average)
                average.copy_(weights)
