"""Kinds of values on a command line: how they are written, and what is said of one that is wrong (for tyro).

The same as in YAML: `true`, `1e-3`, `none` for what is not given.  tyro's own rules name Python's types in
their messages, ask for a capital `True`, and list choices in another order at every start.
"""

from __future__ import annotations

import math
from contextlib import suppress
from types import NoneType
from typing import Any, get_args

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from lumiray.settings_file import words

NONE = "none"
Spec = PrimitiveConstructorSpec[Any]


def option_kinds() -> ConstructorRegistry:
    """Rules for numbers, switches, tuples of numbers, and values that may be left out."""
    registry = ConstructorRegistry()
    for rule in (_number, _switch, _numbers, _optional):
        registry.primitive_rule(rule)
    return registry


def _number(info: PrimitiveTypeInfo) -> Spec | None:
    kind: Any = info.type
    if kind not in (int, float):
        return None

    def read(given: list[str]) -> Any:
        with suppress(ValueError):
            number = kind(given[0])
            if math.isfinite(number):
                return number
        raise ValueError(f"{given[0]!r} is not {words(kind)}.")

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT" if kind is int else "NUMBER",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, (int, kind)) and not isinstance(value, bool),
        str_from_instance=lambda value: [f"{value:g}" if kind is float else str(value)],
    )


def _switch(info: PrimitiveTypeInfo) -> Spec | None:
    if info.type is not bool:
        return None

    def read(given: list[str]) -> bool:
        if given[0].lower() not in ("true", "false"):
            raise ValueError(f"{given[0]!r} is not {words(bool)}.")
        return given[0].lower() == "true"

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="{true,false}",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, bool),
        str_from_instance=lambda value: [str(value).lower()],
    )


def _numbers(info: PrimitiveTypeInfo) -> Spec | None:
    """A tuple of so many numbers."""
    kinds = get_args(info.type) if info.type_origin is tuple else ()
    if not kinds or any(kind not in (int, float) for kind in kinds):
        return None
    parts = [_spec(kind, info) for kind in kinds]

    def read(given: list[str]) -> tuple[Any, ...]:
        if len(given) != len(parts):
            raise ValueError(f"needs {len(parts)} values, not {len(given)}.")
        return tuple(part.instance_from_str([one]) for part, one in zip(parts, given, strict=True))

    return PrimitiveConstructorSpec(
        nargs=len(parts),
        metavar=" ".join(part.metavar for part in parts),
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, tuple) and len(value) == len(parts),
        str_from_instance=lambda value: [
            text for part, one in zip(parts, value, strict=True) for text in part.str_from_instance(one)
        ],
    )


def _optional(info: PrimitiveTypeInfo) -> Spec | None:
    """A value that may be left out: its own kind, or the word `none`, which takes back a value of the YAML."""
    kinds = get_args(info.type)
    if len(kinds) != 2 or NoneType not in kinds:
        return None
    inner = _spec(next(kind for kind in kinds if kind is not NoneType), info)

    def read(given: list[str]) -> Any:
        return None if given == [NONE] else inner.instance_from_str(given)

    counts = {1, inner.nargs} if isinstance(inner.nargs, int) else {1}
    return PrimitiveConstructorSpec(
        nargs=tuple(sorted(counts)) if len(counts) > 1 else 1,
        metavar=inner.metavar,
        instance_from_str=read,
        is_instance=lambda value: value is None or inner.is_instance(value),
        str_from_instance=lambda value: [NONE] if value is None else inner.str_from_instance(value),
        choices=(*inner.choices, NONE) if inner.choices is not None else None,
    )


def _spec(kind: Any, info: PrimitiveTypeInfo) -> Spec:
    """The rule that applies to a part of a type.

    Raises:
        TypeError: no rule does: a configuration class has a field that the command line cannot express.
    """
    found = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, info.markers))
    if isinstance(found, PrimitiveConstructorSpec):
        return found
    raise TypeError(f"options of the kind {kind} cannot be given on the command line")
