"""The line of `lumiray ground`, with the options of the system that grounds; read without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from lumiray.command import value_of
from lumiray.errors import UserError, check_number
from lumiray.evaluate.use_options import UseCommand, with_system_options
from lumiray.registry import about, slugs
from lumiray.system import Record

DRAWINGS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@dataclass(frozen=True)
class GroundOptions:
    """A picture, what is looked for in it, and where the drawing goes."""

    picture: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PICTURE")]
    """Picture, local or s3://."""
    text: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TEXT")]
    """Phrases that dots divide, such as 'a dog. a frisbee.'."""
    output: str
    """Drawing to write, local or s3://: .png, .jpg or .webp."""
    threshold: float = 0.5
    """Boxes with a higher score are drawn."""
    system: str | None = None
    """System that grounds; if not given, the one that is trained on boxes with words."""

    def __post_init__(self) -> None:
        """Refuse a threshold or a name that cannot be.

        Raises:
            UserError: names the option, its value, and what is allowed.
        """
        check_number("threshold", self.threshold, 0, 1)
        if not self.output.lower().endswith(tuple(DRAWINGS)):
            raise UserError(f"--output is {self.output!r}; it must end with {', '.join(DRAWINGS)}.")


GroundCommand = UseCommand[GroundOptions]


def read_ground_command(arguments: Sequence[str], description: str) -> GroundCommand:
    """Read `PICTURE TEXT --weights FILE --output FILE ...`, with the options of the system.

    Where the weights are a run's, its settings are the defaults of the system's options.

    Raises:
        UserError: no such system, none or several that may be meant, or the run is another system's.
        SystemExit: the line was refused with one message (2), or help was printed (0).
    """
    slug = value_of(arguments, "--system") or _only_one()
    return with_system_options(GroundOptions, slug, arguments, description, "lumiray ground")


def _only_one() -> str:
    """The system that is trained on grounding rows.

    Raises:
        UserError: there is none, or several.
    """
    found = [slug for slug in slugs() if Record.GROUNDING in (one.stages if (one := about(slug)) else {}).values()]
    if len(found) != 1:
        raise UserError(f"Say which system grounds: --system NAME; there are {', '.join(found or slugs())}.")
    return found[0]
