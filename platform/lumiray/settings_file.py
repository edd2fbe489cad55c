"""A job's configuration as YAML: the same names as on the command line, and back again.

system: clip
shards: data/
model: ViT-B-32
data:
  slice_rows: 16
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from contextlib import suppress
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from lumiray.config import JobConfig, RunConfig
from lumiray.errors import UserError, near
from lumiray.registry import config_class
from lumiray.storage import open_url

UNICODE_BREAKS = "\x85\u2028\u2029"  # written plainly, PyYAML reads them back as white space


def to_yaml(job: JobConfig) -> str:
    """The whole resolved configuration; reading it back gives an equal job."""
    values = {"system": job.slug} | _plain(job.run) | _plain(job.system)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    if any(one in text for one in UNICODE_BREAKS):
        text = yaml.safe_dump(values, sort_keys=False)
    return text


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value


def without_weights(config: Any) -> Any:
    """A system's configuration that names no file of weights."""
    return dataclasses.replace(config, weights=None) if getattr(config, "weights", None) else config


def read_settings(url: str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: it cannot be read, or does not hold a mapping.
    """
    try:
        with open_url(url, "rb") as file:
            values = yaml.safe_load(file.read())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"--config {url}: cannot be read ({' '.join(str(error).split())}).") from None
    if not isinstance(values, dict):
        raise UserError(f"--config {url}: must be a mapping of options to values.")
    return values


def job_from(slug: str, values: dict[str, Any], source: str) -> JobConfig:
    """A job from settings; what is not named keeps its default.

    Raises:
        UserError: an unknown name (near ones are suggested), a value of the wrong kind, or another system.
    """
    values = dict(values)
    named = values.pop("system", slug)
    if str(named).replace("_", "-") != slug:
        raise UserError(f"{source} is for the system {named!r}, and this job trains {slug!r}.")
    system_kind = config_class(slug)
    run_names = {field.name for field in dataclasses.fields(RunConfig)}
    system_names = {field.name for field in dataclasses.fields(system_kind)}
    for name in values:
        if name not in run_names | system_names:
            raise UserError(f"{source}: unknown option {name!r}.{near(str(name), run_names | system_names)}")
    run = _build(RunConfig, {name: values[name] for name in values if name in run_names}, source, "")
    system = _build(system_kind, {name: values[name] for name in values if name in system_names}, source, "")
    return JobConfig(slug, run, system)


def _build(kind: type, values: Any, source: str, prefix: str) -> Any:
    """A dataclass from plain values, every value checked against its field's type."""
    if not isinstance(values, dict):
        raise UserError(f"{source}: {prefix.rstrip('.')} must be a mapping, not {values!r}.")
    hints = typing.get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    given = {}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{source}: unknown option {prefix + str(name)!r}.{near(str(name), known)}")
        given[name] = _checked(hints[name], value, source, prefix + name)
    return kind(**given)


def _checked(hint: Any, value: Any, source: str, name: str) -> Any:
    """The value as its field's type wants it.

    Raises:
        UserError: it is of another kind.
    """
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, source, name + ".")
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        inner = [one for one in arguments if one is not type(None)]
        return _checked(inner[0], value, source, name)
    if origin is Literal:
        if any(value == one and type(value) is type(one) for one in arguments):  # True and 1.0 equal 1
            return value
        raise UserError(f"{source}: {name} is {value!r}; it must be one of {', '.join(map(str, arguments))}.")
    if origin is tuple:
        return _checked_tuple(arguments, value, source, name)
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            number = float(value)  # YAML reads 1e-3 as text
            if math.isfinite(number):
                return number
    elif (hint is int and isinstance(value, int) and not isinstance(value, bool)) or (
        hint in (str, bool) and isinstance(value, hint)
    ):
        return value
    raise UserError(f"{source}: {name} is {value!r}; it must be {words(hint)}.")


def _checked_tuple(arguments: tuple[Any, ...], value: Any, source: str, name: str) -> tuple[Any, ...]:
    kinds = arguments
    if isinstance(value, (list, tuple)):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            kinds = (arguments[0],) * len(value)
        if len(kinds) == len(value):
            return tuple(_checked(one, part, source, name) for one, part in zip(kinds, value, strict=True))
    raise UserError(f"{source}: {name} is {value!r}; it must be a list of {len(kinds)} values.")


def words(hint: Any) -> str:
    """What a value of a type is called in messages to the user."""
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(hint, str(hint))
