"""The command line of a job: every option of the run and of its system, YAML below it (tyro).

config = parse("clip", sys.argv[1:])
run("clip", main)                       the whole life of a job: parse, call, exit code
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from lumiray.config import JobConfig, RunConfig
from lumiray.errors import EXIT_BAD_USE, EXIT_DONE, UserError
from lumiray.registry import config_class
from lumiray.settings_file import job_from, read_settings

MORE = "Also: --config FILE.yaml gives any of these options; --dry-run prints what would happen."


@dataclass(frozen=True)
class Parsed:
    """A job and what is to be done with it."""

    job: JobConfig
    dry_run: bool


def parse(slug: str, arguments: Sequence[str], description: str = "") -> Parsed:
    """Read a job's command line; `--config FILE.yaml` gives values that options on the line override.

    Raises:
        UserError: the YAML names something unknown, or two options disagree.
        SystemExit: tyro refused the line (2), or printed help (0).
    """
    url, dry_run, rest = _own_options(list(arguments))
    default = job_from(slug, read_settings(url) if url else {}, f"--config {url}")
    flat = Annotated[RunConfig, tyro.conf.arg(name="")]
    kind: Any = config_class(slug)
    own: Any = Annotated[kind, tyro.conf.arg(name="")]
    form = dataclasses.make_dataclass(
        "Job",
        [
            ("run", flat, dataclasses.field(default=default.run)),
            ("system", own, dataclasses.field(default=default.system)),
        ],
        frozen=True,
    )
    found: Any = tyro.cli(
        form,
        prog=None,
        description=f"{description}\n\n{MORE}",
        args=rest,
        config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
    )
    job = JobConfig(slug, found.run, found.system)
    weights = getattr(job.system, "weights", None)
    if weights and job.run.resume not in ("auto", "never"):
        raise UserError("--weights and --resume PATH both say where weights come from; leave one out.")
    return Parsed(job, dry_run)


def _own_options(arguments: list[str]) -> tuple[str | None, bool, list[str]]:
    """Take `--config` and `--dry-run` off the line."""
    url, dry_run, rest = None, False, []
    at = 0
    while at < len(arguments):
        one = arguments[at]
        if one == "--dry-run":
            dry_run = True
        elif one == "--config" or one.startswith("--config="):
            if one == "--config" and at + 1 == len(arguments):
                raise UserError("--config needs the path of a YAML file.")
            url = one.partition("=")[2] if "=" in one else arguments[at + 1]
            at += "=" not in one
        else:
            rest.append(one)
        at += 1
    return url, dry_run, rest


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


__all__ = ["EXIT_BAD_USE", "Parsed", "guarded", "parse", "run"]
