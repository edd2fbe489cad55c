"""Slices of named tensors: the form in which state leaves an engine and comes back.

A slice knows its place in the whole parameter, so state that was cut for one number of ranks or one ZeRO stage can be
put together for another by overlaps alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor

MASTER, FROZEN, BUFFER = "master", "frozen", "buffer"  # keys of a saved value that is no moment


@dataclass(frozen=True)
class Fragment:
    """Consecutive elements of one parameter or buffer.

    Args:
        shape: of the whole parameter.
        start: first element, within the flattened parameter.
        values: `(n,)`, fp32 master values of a trained parameter; a view that writes through, except under NVMe
            offload, where it is a copy.
        moments: key of the optimizer's state (exp_avg, exp_avg_sq, momentum_buffer) -> `(n,)`, as `values`.
        step: the optimizer's count of steps for this parameter; None if it keeps none yet.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    values: Tensor
    moments: dict[str, Tensor] = field(default_factory=dict)
    step: int | None = None


class Lookup(Protocol):
    """Where state that was saved is found again, whoever saved it."""

    def values(self, name: str, key: str, start: int, length: int) -> Tensor:
        """Elements [start, start + length) of a tensor, `(length,)`; key: master, frozen, buffer or a moment."""

    def moments(self, name: str) -> frozenset[str]:
        """Keys of the moments that were saved for a parameter."""

    def step(self, name: str) -> int | None:
        """The optimizer's count of steps for a parameter; None if it kept none."""


def share(fragments: Sequence[Fragment], rank: int, world_size: int) -> list[Fragment]:
    """One rank's equal part of fragments that every rank holds, laid one behind the other."""
    total = sum(one.values.numel() for one in fragments)
    each = math.ceil(total / world_size)
    low, high = rank * each, (rank + 1) * each
    found, position = [], 0
    for one in fragments:
        size = one.values.numel()
        first, last = max(low - position, 0), min(high - position, size)
        position += size
        if first < last:
            moments = {key: value[first:last] for key, value in one.moments.items()}
            found.append(replace(one, start=one.start + first, values=one.values[first:last], moments=moments))
    return found
