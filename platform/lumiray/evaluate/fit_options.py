"""The command line of jobs that fit a system to each picture of a folder; read without torch and Ray."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from lumiray.command import read_options, require_system
from lumiray.errors import check_number
from lumiray.registry import config_class, slugs


@dataclass(frozen=True)
class FitOptions:
    """Which pictures, where to, and on how many cores."""

    input: str
    """Folder, local or s3://, whose pictures are restored (those directly in it)."""
    output: str
    """Folder for the restored pictures: the same names, as PNG of the same depth and channels."""
    workers: int | None = None
    """Processes that fit, one core each; all cores of the cluster if not given."""
    group: int = 1
    """Pictures that a process takes at once; those of one size are fitted side by side."""
    overwrite: bool = False
    """Restore pictures again whose result is already there."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be.

        Raises:
            UserError: names the option, its value, and what is allowed.
        """
        check_number("workers", self.workers, 1)
        check_number("group", self.group, 1)


@dataclass(frozen=True)
class FitCommand:
    """A system that is fitted, its settings, and what it is fitted to."""

    slug: str
    options: FitOptions
    config: Any


def read_fit_command(arguments: Sequence[str], description: str) -> FitCommand:
    """Read `SYSTEM --input FOLDER --output FOLDER ...`, with the options of that system.

    Raises:
        UserError: no system is named, or none of that name is there.
        SystemExit: the line was refused with one message (2), or help was printed (0).
    """
    flat: Any = tyro.conf.arg(name="")
    options: Any = Annotated[FitOptions, flat, tyro.conf.FlagConversionOff]
    require_system(arguments, options, f"{slugs('fit')[0]} --input noisy --output clean", slugs("fit"), description)
    slug = arguments[0]
    kind: Any = config_class(slug, "fit")
    fields: list[Any] = [
        ("options", options),
        ("config", Annotated[kind, flat, tyro.conf.FlagConversionOff], dataclasses.field(default=kind())),
    ]
    found = read_options(dataclasses.make_dataclass("Fit", fields, frozen=True), arguments[1:], description)
    return FitCommand(slug, found.options, found.config)
