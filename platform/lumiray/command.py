"""The command line of a job: every option of the run and of its system, YAML below it (tyro).

config = parse("clip", sys.argv[1:])
run("clip", main)                       the whole life of a job: parse, call, exit code
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from lumiray.config import JobConfig, RunConfig
from lumiray.errors import EXIT_BAD_USE, EXIT_DONE, UserError
from lumiray.option_kinds import option_kinds
from lumiray.registry import config_class
from lumiray.settings_file import job_from, read_settings

EXAMPLE = r"\n\s*\n|\n(?=\s*python )"  # tyro fills lines as prose; an example stays a paragraph of its own


@dataclass(frozen=True)
class Parsed:
    """A job and what is to be done with it."""

    job: JobConfig
    dry_run: bool


@dataclass(frozen=True)
class Asked:
    """What the command line says besides the configuration."""

    config: str | None = None
    """YAML file that sets any of these options; those on the line win. A run's own config.yaml repeats that run."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Check everything, print steps, memory, speed, reads and checkpoint sizes, and start nothing."""


def read_options(form: Any, arguments: Sequence[str], description: str) -> Any:
    """An instance of a dataclass from a command line.

    Raises:
        SystemExit: the line was refused with one message (2), or help was printed (0).
    """
    shown = "\n\n".join(" ".join(part.split()) for part in re.split(EXAMPLE, description))
    return tyro.cli(form, description=shown, args=list(arguments), registry=option_kinds())


def parse(slug: str, arguments: Sequence[str], description: str = "") -> Parsed:
    """Read a job's command line; `--config FILE.yaml` gives values that options on the line override.

    Raises:
        UserError: the YAML names something unknown, or two options disagree.
        SystemExit: the line was refused (2), or help was printed (0).
    """
    url = value_of(arguments, "--config")
    default = job_from(slug, read_settings(url) if url else {}, f"--config {url}")
    flat = tyro.conf.arg(name="")
    form = dataclasses.make_dataclass(
        "Job",
        [
            ("run", Annotated[RunConfig, flat, tyro.conf.FlagConversionOff], dataclasses.field(default=default.run)),
            ("asked", Annotated[Asked, flat], dataclasses.field(default=Asked())),
            _system_field(slug, default.system),
        ],
        frozen=True,
    )
    found = read_options(form, arguments, description)
    job = JobConfig(slug, found.run, found.system)
    weights = getattr(job.system, "weights", None)
    if weights and job.run.resume not in ("auto", "never"):
        raise UserError("--weights and --resume PATH both say where weights come from; leave one out.")
    return Parsed(job, found.asked.dry_run)


def _system_field(slug: str, default: Any) -> tuple[str, Any, Any]:
    kind: Any = config_class(slug)
    own: Any = Annotated[kind, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    return "system", own, dataclasses.field(default=default)


def value_of(arguments: Sequence[str], option: str) -> str | None:
    """What an option is given on a line that is not read yet: a file that gives the defaults of all the others."""
    found = None
    for one, following in zip(arguments, (*arguments, "")[1:], strict=True):
        if one.startswith(f"{option}="):
            found = one.partition("=")[2]
        elif one == option and not following.startswith("--"):
            found = following
    return found or None


def guarded(action: Callable[[], Any]) -> int:
    """Call, and turn a user's mistake into one message and its exit code."""
    try:
        action()
    except UserError as error:
        print(f"error: {error}" if error.exit_code != 75 else str(error), file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return EXIT_DONE


def run(slug: str, description: str, train: Callable[[JobConfig], Any], dry_run: Callable[[JobConfig], str]) -> None:
    """The life of a training job, to its exit code."""

    def act() -> None:
        parsed = parse(slug, sys.argv[1:], description)
        if parsed.dry_run:
            print(dry_run(parsed.job))
        else:
            train(parsed.job)

    sys.exit(guarded(act))


__all__ = ["EXIT_BAD_USE", "Parsed", "guarded", "parse", "run", "value_of"]
