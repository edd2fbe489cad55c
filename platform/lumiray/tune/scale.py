"""Values of an axis as numbers that an algorithm may change: kept inside the axis, or as parts of it."""

from __future__ import annotations

import math
from typing import Any

from lumiray.tune.space import Choice, Interval, Whole


def nearest(over: Interval | Whole | Choice, value: Any) -> Any:
    """The value of an axis that is nearest to one that may lie outside of it, or between its whole numbers."""
    if isinstance(over, Choice):
        return value
    inside = min(max(value, over.low), over.high)
    if isinstance(over, Interval):
        return float(inside)
    return over.low + over.step * min(round((inside - over.low) / over.step), (over.high - over.low) // over.step)


def to_unit(over: Interval | Whole | Choice, value: Any) -> float:
    """Where a number lies on its axis: 0 at its low end, 1 at its high one, in the logarithm if the axis is.

    Raises:
        TypeError: a choice has no ends.
    """
    if isinstance(over, Choice):
        raise TypeError("a choice has no ends")
    low, high = float(over.low), float(over.high)
    if isinstance(over, Interval) and over.log:
        return math.log(value / low) / math.log(high / low)
    return (float(value) - low) / (high - low)


def from_unit(over: Interval | Whole | Choice, part: float) -> Any:
    """The value at a part of an axis; parts outside of [0, 1] are its ends.

    Raises:
        TypeError: a choice has no ends.
    """
    if isinstance(over, Choice):
        raise TypeError("a choice has no ends")
    low, high = float(over.low), float(over.high)
    if isinstance(over, Interval) and over.log:
        return nearest(over, low * (high / low) ** part)
    return nearest(over, low + (high - low) * part)
