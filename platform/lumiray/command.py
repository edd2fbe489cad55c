"""The command line of a job: every option of the run and of its system, YAML below it (tyro).

config = parse("clip", sys.argv[1:])
run("clip", ...)                        the whole life of a job: parse, call, exit code
run_named(..., elsewhere={})            the same where the first word says which system is trained
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from lumiray.config import JobConfig, RunConfig
from lumiray.errors import EXIT_BAD_USE, EXIT_DONE, UserError, near
from lumiray.option_kinds import option_kinds
from lumiray.registry import config_class, slugs
from lumiray.settings_file import job_from, read_settings

SHORT = {"--from": "--start-from"}  # `from` is a word of Python, so no field can be called so
EXAMPLE = r"\n\s*\n|\n(?=\s*python )"  # tyro fills lines as prose; an example stays a paragraph of its own


@dataclass(frozen=True)
class Parsed:
    """A job and what is to be done with it.

    Args:
        extra: options that only some jobs have, an instance of what `parse` was given.
    """

    job: JobConfig
    dry_run: bool
    extra: Any = None


@dataclass(frozen=True)
class Asked:
    """What the command line says besides the configuration."""

    config: str | None = None
    """YAML file that sets any of these options; those on the line win. A run's own config.yaml repeats that run."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Check everything, print steps, memory, speed, reads and checkpoint sizes, and start nothing."""


def read_options(form: Any, arguments: Sequence[str], description: str, program: str | None = None) -> Any:
    """An instance of a dataclass from a command line.

    Args:
        program: what help calls the command; the name of the script if None.

    Raises:
        SystemExit: the line was refused with one message (2), or help was printed (0).
    """
    shown = "\n\n".join(" ".join(part.split()) for part in re.split(EXAMPLE, description))
    return tyro.cli(form, prog=program, description=shown, args=list(arguments), registry=option_kinds())


def parse(slug: str, arguments: Sequence[str], description: str = "", extra: type | None = None) -> Parsed:
    """Read a job's command line; `--config FILE.yaml` gives values that options on the line override.

    Args:
        extra: dataclass of further options.

    Raises:
        UserError: the YAML names something unknown, or two options disagree.
        SystemExit: the line was refused (2), or help was printed (0).
    """
    arguments = [_long(one) for one in arguments]
    url = value_of(arguments, "--config")
    default = job_from(slug, read_settings(url) if url else {}, f"--config {url}")
    flat = tyro.conf.arg(name="")
    form = dataclasses.make_dataclass(
        "Job",
        [
            ("run", Annotated[RunConfig, flat, tyro.conf.FlagConversionOff], dataclasses.field(default=default.run)),
            ("asked", Annotated[Asked, flat], dataclasses.field(default=Asked())),
            _system_field(slug, default.system),
            *([("extra", Annotated[extra, flat], dataclasses.field(default=extra()))] if extra else []),
        ],
        frozen=True,
    )
    found = read_options(form, arguments, description)
    job = JobConfig(slug, found.run, found.system)
    weights = getattr(job.system, "weights", None)
    if weights and job.run.resume not in ("auto", "never"):
        raise UserError("--weights and --resume PATH both say where weights come from; leave one out.")
    if weights and job.run.start_from:
        raise UserError("--weights and --from both say where weights come from; leave one out.")
    return Parsed(job, found.asked.dry_run, getattr(found, "extra", None))


def _long(argument: str) -> str:
    name, equals, value = argument.partition("=")
    return SHORT.get(name, name) + equals + value


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
    sys.exit(guarded(lambda: _act(parse(slug, sys.argv[1:], description), train, dry_run)))


def run_named(
    description: str,
    train: Callable[[JobConfig], Any],
    dry_run: Callable[[JobConfig], str],
    elsewhere: Mapping[str, str],
) -> None:
    """The same for a job that trains several systems: the first word of its line says which.

    Args:
        elsewhere: systems that another job trains, with its file.
    """

    def act() -> None:
        slug = named_system(sys.argv[1:], description, elsewhere)
        _act(parse(slug, sys.argv[2:], description), train, dry_run)

    sys.exit(guarded(act))


def _act(parsed: Parsed, train: Callable[[JobConfig], Any], dry_run: Callable[[JobConfig], str]) -> None:
    if parsed.dry_run:
        print(dry_run(parsed.job))
    else:
        train(parsed.job)


def require_system(
    arguments: Sequence[str],
    options: Any,
    example: str,
    known: Sequence[str],
    description: str,
    asked: str = "which system",
) -> None:
    """See that the first word of a line names a system.

    Args:
        options: those of the job without a system, for its help.
        asked: what the word says.

    Raises:
        UserError: it is an option, or there is none.
        SystemExit: help was asked for without a system, and printed (0).
    """
    if arguments and not arguments[0].startswith("-"):
        return
    names = ", ".join(known)
    if {"-h", "--help"} & set(arguments):
        read_options(options, ("--help",), f"{description}\n\nSystems: {names}. SYSTEM --help adds the options of one.")
    raise UserError(f"Say first {asked}, as in {example}; there are {names}.")


def named_system(
    arguments: Sequence[str], description: str, elsewhere: Mapping[str, str], extra: type | None = None
) -> str:
    """The system that the first word of a job's line names.

    Args:
        extra: dataclass of further options that the job has.

    Raises:
        UserError: it names none, or one that this job does not train.
        SystemExit: help was asked for without a system, and printed (0).
    """
    own = [slug for slug in slugs() if slug not in elsewhere]
    known = ", ".join(own)
    flat = tyro.conf.arg(name="")
    kinds = {"run": RunConfig, **({"extra": extra} if extra else {})}
    parts = [(name, Annotated[one, flat, tyro.conf.FlagConversionOff]) for name, one in kinds.items()]
    options = dataclasses.make_dataclass("Job", parts)
    require_system(arguments, options, f"{own[0]} --shards ...", own, description, "which system is trained")
    slug = arguments[0].lower().replace("_", "-")
    if slug in elsewhere:
        raise UserError(f"{slug} is trained by {elsewhere[slug]}; this job trains {known}.")
    if slug not in own and slug not in slugs("fit"):
        raise UserError(
            f"There is no system {arguments[0]!r}; there are {known}.{near(slug, (*slugs(), *slugs('fit')))}"
        )
    config_class(slug)  # one that is fitted to each picture is refused, with its job
    return slug


__all__ = ["EXIT_BAD_USE", "Parsed", "guarded", "parse", "run", "run_named", "value_of"]
