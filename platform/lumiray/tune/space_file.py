"""A space as YAML, and the one that a system ships as `space.yaml` in its folder.

lr: {loguniform: [1e-4, 1e-2]}
l1_weight: {uniform: [0.5, 2]}
crop_size: {int: [64, 256], step: 8}
optimizer.schedule: {choice: [cosine, constant-cooldown]}
optimizer.cooldown: {int: [10, 50], when: {optimizer.schedule: constant-cooldown}}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import yaml

from lumiray.errors import UserError, near
from lumiray.registry import folder
from lumiray.storage import open_url
from lumiray.tune.space import Axis, Choice, Interval, Space, Whole

KINDS = ("uniform", "loguniform", "int", "choice")
SHIPPED = "space.yaml"


def find_space(slug: str, url: str | None) -> tuple[Space, str]:
    """The space in a file, or else the system's own; and what it is called in messages.

    Raises:
        UserError: there is none, or it is written in another way.
    """
    if url is not None:
        return read_space(_text(url, f"--space {url}"), f"--space {url}"), f"--space {url}"
    own = folder(slug) / SHIPPED
    if not own.exists():
        raise UserError(f"{slug} ships no space of its own: say with --space FILE.yaml what is to be varied.")
    return read_space(own.read_text(), f"{slug}'s {SHIPPED}"), f"{slug}'s {SHIPPED}"


def _text(url: str, source: str) -> str:
    try:
        with open_url(url, "rb") as file:
            return bytes(file.read()).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: cannot be read ({' '.join(str(error).split())}).") from None


def read_space(text: str, source: str) -> Space:
    """The space that a YAML text describes; its fields are checked against a job by `check_space`.

    Raises:
        UserError: it is written in another way; says at which field.
    """
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{source}: is no YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(values, dict):
        raise UserError(
            f"{source}: must be a mapping of fields to what they may be, 'lr: {{loguniform: [1e-4, 1e-2]}}'."
        )
    return Space(tuple(_axis(str(field), one, source) for field, one in values.items()))


def _axis(field: str, value: Any, source: str) -> Axis:
    where = f"{source}: {field}"
    if not isinstance(value, dict):
        raise UserError(f"{where} must be one of {', '.join(KINDS)}, such as {{loguniform: [1e-4, 1e-2]}}.")
    for name in value:
        if name not in (*KINDS, "step", "when"):
            known = (*KINDS, "step", "when")
            raise UserError(f"{where}: there is no {name!r}; there are {', '.join(known)}.{near(str(name), known)}")
    named = [one for one in KINDS if one in value]
    if len(named) != 1:
        raise UserError(f"{where} must have exactly one of {', '.join(KINDS)}.")
    kind, given = named[0], value[named[0]]
    if "step" in value and kind != "int":
        raise UserError(f"{where}: only int has a step.")
    when = _when(value.get("when", {}), where)
    if kind == "choice":
        if not isinstance(given, list):
            raise UserError(f"{where}: choice must be a list of values.")
        return Axis(field, Choice(tuple(given)), when)
    if not isinstance(given, list) or len(given) != 2:
        raise UserError(f"{where}: {kind} must be [LOW, HIGH].")
    if kind == "int":
        low, high, step = (_whole(one, where) for one in (*given, value.get("step", 1)))
        return Axis(field, Whole(low, high, step), when)
    return Axis(field, Interval(_number(given[0], where), _number(given[1], where), kind == "loguniform"), when)


def _when(given: Any, where: str) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    if not isinstance(given, Mapping):
        raise UserError(f"{where}: when must be a mapping of fields to a value or several.")
    if any(one == [] for one in given.values()):
        raise UserError(f"{where}: when names a field without a value.")
    return tuple((str(name), tuple(one) if isinstance(one, list) else (one,)) for name, one in given.items())


def _whole(value: Any, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise UserError(f"{where}: {value!r} is not a whole number.")


def _number(value: Any, where: str) -> float:
    with suppress(TypeError, ValueError):  # YAML reads 1e-3 as text
        number = float(value)
        if math.isfinite(number) and not isinstance(value, bool):
            return number
    raise UserError(f"{where}: {value!r} is not a number.")
