"""Generations of a trial in a population: stretches of its training, each a run with values of its own.

The first begins with the networks as they are made, each later one with the checkpoint of a better trial.  A trial's
generations stand in its records as plain values, so that lineage is known whoever reads them, whatever was killed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lumiray.evaluate.chart import short_number

GENERATIONS = "generations"  # attribute of a trial


@dataclass(frozen=True)
class Generation:
    """A stretch of a trial under the same values.

    Args:
        step: at which it began.
        values: of the fields that the study varies.
        parent: (trial, number of its generation) whose checkpoint of that step it began with; None for the first.
    """

    step: int
    values: Mapping[str, Any]
    parent: tuple[int, int] | None = None


def plain(generations: Sequence[Generation]) -> list[dict[str, Any]]:
    """Generations as a record holds them."""
    return [
        {"step": one.step, "values": dict(one.values)}
        | ({"from": {"trial": one.parent[0], "generation": one.parent[1]}} if one.parent else {})
        for one in generations
    ]


def of_notes(notes: Mapping[str, Any]) -> tuple[Generation, ...]:
    """Generations in a trial's notes; none of a trial that is of no population."""
    return tuple(
        Generation(
            int(one["step"]),
            one["values"],
            (int(one["from"]["trial"]), int(one["from"]["generation"])) if "from" in one else None,
        )
        for one in notes.get(GENERATIONS, ())
    )


def lineage(number: int, generations: Sequence[Generation]) -> Iterator[str]:
    """What a trial took over from others, a line each."""
    for one in generations:
        if one.parent:
            values = said_values(one.values)
            yield f"    step {one.step}: trial {number} goes on from trial {one.parent[0]} with {values}"


def said_values(values: Mapping[str, Any]) -> str:
    """A trial's values in words."""
    return ", ".join(
        f"{name} {short_number(value) if isinstance(value, float) else value}" for name, value in values.items()
    )
