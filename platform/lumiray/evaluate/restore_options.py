"""The command line of the job that restores folders of pictures by a trained system; read without torch and Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from lumiray.command import require_system
from lumiray.errors import UserError, check_number
from lumiray.evaluate.use_options import UseCommand, with_system_options
from lumiray.registry import slugs

EXAMPLE = "--weights published.pth --input photos/ --output restored/"


@dataclass(frozen=True)
class RestoreOptions:
    """Which pictures, where to, how they are cut, and by how many processes."""

    input: str
    """Folder, local or s3://, whose pictures are restored (those directly in it)."""
    output: str
    """Folder for the restored pictures: the same names."""
    format: Literal["png", "jpeg", "webp"] = "png"
    """png of the same depth; or of 8 bits jpeg (quality 95, no transparency) or webp (lossless)."""
    tile: str = "auto"
    """Side of the tiles in pixels; none does without; auto takes the system's own, or the largest that memory holds."""
    workers: int = 1
    """Processes; with several, or with RAY_ADDRESS set, Ray Data shares the pictures between them."""
    overwrite: bool = False
    """Restore pictures again whose result is already there."""
    compare: str | None = None
    """HTML page to write, local or s3://, with a few pictures before, after, and their difference."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be.

        Raises:
            UserError: names the option, its value, and what is allowed.
        """
        check_number("workers", self.workers, 1)
        if self.tile not in ("auto", "none"):
            if not self.tile.isdecimal():
                raise UserError(f"--tile is {self.tile!r}; it must be auto, none, or a side in pixels.")
            check_number("tile", int(self.tile), 16)


RestoreCommand = UseCommand[RestoreOptions]


def read_restore_command(arguments: Sequence[str], description: str) -> RestoreCommand:
    """Read `SYSTEM --weights FILE --input FOLDER --output FOLDER ...`, with the options of that system.

    Where the weights are a run's, its settings are the defaults of the system's options.

    Raises:
        UserError: no system is named, or none of that name is there, or the run is another system's.
        SystemExit: the line was refused with one message (2), or help was printed (0).
    """
    flat: Any = tyro.conf.arg(name="")
    options: Any = Annotated[RestoreOptions, flat, tyro.conf.FlagConversionOff]
    require_system(arguments, options, f"{slugs()[0]} {EXAMPLE}", slugs(), description)
    slug = arguments[0]
    return with_system_options(RestoreOptions, slug, arguments[1:], description)
