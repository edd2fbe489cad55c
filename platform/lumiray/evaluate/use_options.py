"""Options of a command that uses a trained system: its own, and those of the system; read without torch and Ray."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

import tyro

from lumiray.command import read_options, value_of
from lumiray.evaluate.run_weights import settings_of_run
from lumiray.registry import config_class

Options = TypeVar("Options")


@dataclass(frozen=True)
class UseCommand(Generic[Options]):
    """A trained system, what it is to do, and its settings."""

    slug: str
    options: Options
    config: Any


def with_system_options(
    kind: type[Options], slug: str, arguments: Sequence[str], description: str, program: str | None = None
) -> UseCommand[Options]:
    """Options of a command and of a system, whose defaults are those of a run in `--weights`.

    Args:
        kind: dataclass of the command's options.
        program: what help calls the command; the name of the script if None.

    Raises:
        UserError: no such system, or the run is another system's.
        SystemExit: the line was refused with one message (2), or help was printed (0).
    """
    flat: Any = tyro.conf.arg(name="")
    own: Any = config_class(slug)
    weights = value_of(arguments, "--weights")
    default = (settings_of_run(slug, weights) if weights else None) or own()
    fields: list[Any] = [
        ("options", Annotated[kind, flat, tyro.conf.FlagConversionOff]),
        ("config", Annotated[own, flat, tyro.conf.FlagConversionOff], dataclasses.field(default=default)),
    ]
    found = read_options(dataclasses.make_dataclass("Use", fields, frozen=True), arguments, description, program)
    return UseCommand(slug, found.options, found.config)
