"""Every option of a job by its dotted name, and another valid value for each: for sweeps over all of them."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from lumiray.config import JobConfig, RunConfig
from lumiray.registry import config_class

CONSTRAINED = {  # a system's values that the types alone do not give
    "crop_scale": (0.25, 0.5),
    "crop_ratio": (0.5, 2.0),
    "color_jitter": (0.1, 0.2, 0.3, 0.4),
    "color_jitter_prob": 0.25,
}
NEEDS = {"unlock_image_groups": {"lock_image": True}, "unlock_text_layers": {"lock_text": True}}


def leaves(kind: type, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, type, default) of every option of a configuration class."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from leaves(typing.cast(type, hint), f"{prefix}{field.name}.")
        else:
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            yield prefix + field.name, hint, default


def options(slug: str) -> dict[str, tuple[Any, Any]]:
    """Dotted name -> (type, default) of every option of a job, the run's first."""
    return {name: (hint, default) for kind in (RunConfig, config_class(slug)) for name, hint, default in leaves(kind)}


def default_job(slug: str = "clip") -> JobConfig:
    return JobConfig(slug, RunConfig(), config_class(slug)())


def value_of(job: JobConfig, name: str) -> Any:
    value: Any = job.run if hasattr(job.run, name.partition(".")[0]) else job.system
    for part in name.split("."):
        value = getattr(value, part)
    return value


def changed(job: JobConfig, name: str) -> JobConfig:
    """The job with another value of one option (and of one that it needs)."""
    first = name.partition(".")[0]
    hint, default = options(job.slug)[name]
    value = CONSTRAINED.get(name, other(hint, default))
    if hasattr(job.run, first):
        return dataclasses.replace(job, run=_replaced(job.run, name, value))
    return dataclasses.replace(job, system=dataclasses.replace(job.system, **NEEDS.get(name, {}), **{name: value}))


def all_changed(slug: str = "clip") -> JobConfig:
    """A job in which no option has its default."""
    job = default_job(slug)
    for name in options(slug):
        job = changed(job, name)
    return job


def other(hint: Any, value: Any) -> Any:
    """A value of the type that is not `value`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return other(next(one for one in arguments if one is not type(None)), value)
    if origin is Literal:
        return next(one for one in arguments if one != value)
    if origin is tuple:
        kinds = arguments[:1] if arguments[-1] is Ellipsis else arguments
        return tuple(other(one, None) for one in kinds)
    if hint is bool:
        return not value
    if hint is int:
        return (value or 7) + 1
    if hint is float:
        return (value or 0.0) + 0.125
    return f"{value or ''}other"


def _replaced(config: Any, name: str, value: Any) -> Any:
    first, _, rest = name.partition(".")
    return dataclasses.replace(config, **{first: _replaced(getattr(config, first), rest, value) if rest else value})
