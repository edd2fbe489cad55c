"""What a search varies: fields of a job's configuration by their dotted names, and the values that each may take.

    Space((
        Axis("lr", Interval(1e-4, 1e-2, log=True)),
        Axis("optimizer.schedule", Choice(("cosine", "constant-cooldown"))),
        Axis("optimizer.cooldown", Whole(10, 50), when=(("optimizer.schedule", ("constant-cooldown",)),)),
    ))

The same in YAML is in `space_file.py`.  Nothing here knows an algorithm: `study.py` asks one for values.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from lumiray.config import JobConfig, RunConfig
from lumiray.errors import UserError, near
from lumiray.registry import config_class
from lumiray.settings_file import job_from, to_yaml

# what makes trials comparable, and what says how they are carried out
FIXED = {
    *("shards", "mix", "val_shards", "output", "stage", "start_from", "resume", "accept_changes", "retries"),
    *("workers", "device", "log", "checkpoint", "evaluate", "epochs_of", "stage_steps"),
}


@dataclass(frozen=True)
class Interval:
    """Numbers of [low, high], uniformly, or uniformly in their logarithm."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Whole:
    """Whole numbers low, low + step, ... up to high."""

    low: int
    high: int
    step: int = 1


@dataclass(frozen=True)
class Choice:
    """One of these values, which may also be lists, words, or None for what is not given."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Axis:
    """One field and the values that it may take.

    Args:
        field: dotted name, such as `optimizer.weight_decay`.
        when: (field of an axis before this one, values): it is varied only where each of them has one of its values,
            and keeps the job's own value elsewhere.
    """

    field: str
    over: Interval | Whole | Choice
    when: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Whether it is varied, given the values of the axes before it."""
        return all(name in values and values[name] in allowed for name, allowed in self.when)


@dataclass(frozen=True)
class Space:
    """All that a search varies, in this order."""

    axes: tuple[Axis, ...]


def with_values(job: JobConfig, values: Mapping[str, Any], source: str = "the trial") -> JobConfig:
    """A job with other values of some fields.

    Args:
        values: plain, as in YAML, by dotted name.
        source: stands in messages.

    Raises:
        UserError: a value of another kind, or one that the system refuses.
    """
    settings = yaml.safe_load(to_yaml(job))
    for name, value in values.items():
        *groups, last = name.split(".")
        inside = settings
        for one in groups:
            inside = inside[one]
        inside[last] = list(value) if isinstance(value, tuple) else value
    return job_from(job.slug, settings, source)


def fields_of(slug: str) -> list[str]:
    """Dotted names of all fields of a system's jobs."""
    return [*_names(RunConfig, ""), *_names(config_class(slug), "")]


def _names(kind: type, prefix: str) -> Iterator[str]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _names(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def check_space(space: Space, job: JobConfig, source: str) -> None:
    """See that every value of a space's ends and choices can stand in the job.

    Raises:
        UserError: a field that does not exist (near ones are named), one that a search leaves alone, a value of another
            kind, or a condition on what is not varied.
    """
    if not space.axes:
        raise UserError(
            f"{source} varies nothing; name at least one field, such as 'lr: {{loguniform: [1e-4, 1e-2]}}'."
        )
    known, before = fields_of(job.slug), dict[str, Axis]()
    for axis in space.axes:
        if axis.field not in known:
            raise UserError(f"{source}: {job.slug} has no setting {axis.field!r}.{near(axis.field, known)}")
        if axis.field in FIXED or axis.field.partition(".")[0] in FIXED:
            raise UserError(
                f"{source}: {axis.field} stays the same in all trials of a study; give it on the command line."
            )
        if axis.field in before:
            raise UserError(f"{source}: {axis.field} is named twice.")
        allowed = {}
        for name, values in axis.when:
            if name not in before:
                raise UserError(
                    f"{source}: {axis.field} depends on {name}, which is not varied above it.{near(name, before)}"
                )
            allowed[name] = values[0]
        for value in ends(axis, source):
            with_values(job, allowed | {axis.field: value}, source)
        before[axis.field] = axis


def ends(axis: Axis, source: str) -> tuple[Any, ...]:
    """Values of an axis that stand for all of them.

    Raises:
        UserError: there are none.
    """
    over = axis.over
    if isinstance(over, Choice):
        if not over.values:
            raise UserError(f"{source}: {axis.field} has no values to choose from.")
        return over.values
    if not over.low < over.high:
        raise UserError(f"{source}: {axis.field} goes from {over.low} to {over.high}; the second must be larger.")
    if isinstance(over, Whole):
        if over.step < 1:
            raise UserError(f"{source}: {axis.field} has steps of {over.step}; they must be at least 1.")
        return (over.low, min(over.low + over.step, over.high), over.high - (over.high - over.low) % over.step)
    if over.log and over.low <= 0:
        raise UserError(f"{source}: {axis.field} begins at {over.low}; a logarithmic interval begins above 0.")
    return (over.low, over.high)
