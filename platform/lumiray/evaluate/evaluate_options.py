"""The command line of the job that evaluates restoration systems; read without torch and Ray."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from lumiray.command import read_options, require_system, value_of
from lumiray.errors import UserError, check_number
from lumiray.evaluate.run_weights import is_folder, settings_in
from lumiray.registry import config_class, slugs
from lumiray.storage import join, list_names

EXAMPLE = "--run runs/a --val-shards held-out/"


@dataclass(frozen=True)
class EvaluateOptions:
    """What is evaluated, on what, and what is left to look at."""

    val_shards: str
    """Shards of pairs to evaluate on: a folder, pattern, list with `::`, or s3:// address."""
    run: str | None = None
    """A run's output, whose newest checkpoint is evaluated with the run's settings, or one of its checkpoints."""
    workers: int = 1
    """Evaluating processes, each with one GPU where there are GPUs; no figure depends on their number."""
    output: str | None = None
    """Folder for pictures.csv, summary.md, scores.json and worst/; scores/TIME in --run, or here, if not given."""
    worst: int = 8
    """Worst pictures by the first measure that are drawn: input, restored, reference."""
    lpips_vgg: str | None = None
    """File of torchvision's VGG-16 (vgg16-397923af.pth); with --lpips-linear LPIPS is computed, too."""
    lpips_linear: str | None = None
    """File of the linear layers of LPIPS 0.1 for VGG-16 (lpips/weights/v0.1/vgg.pth of the package lpips)."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be.

        Raises:
            UserError: names the option, its value, and what is allowed.
        """
        check_number("workers", self.workers, 1)
        check_number("worst", self.worst, 0)
        if (self.lpips_vgg is None) != (self.lpips_linear is None):
            raise UserError("LPIPS needs two files: give --lpips-vgg and --lpips-linear, or neither.")


@dataclass(frozen=True)
class EvaluateCommand:
    """A system, its settings, and what it is evaluated on.

    Args:
        options: of the job, an instance of what the line was read for.
        run_folder: output of the run that is evaluated; None for weights in a file.
    """

    slug: str
    options: Any
    config: Any
    run_folder: str | None


def read_evaluate_command(arguments: Sequence[str], description: str) -> EvaluateCommand:
    """Read `SYSTEM (--run RUN | --weights FILE) --val-shards SHARDS ...`, with the options of that system.

    The settings of a run are the defaults of the system's options.

    Raises:
        UserError: no system is named, or none of that name is there; nothing to evaluate, or two things.
        SystemExit: the line was refused with one message (2), or help was printed (0).
    """
    flat: Any = tyro.conf.arg(name="")
    options: Any = Annotated[EvaluateOptions, flat, tyro.conf.FlagConversionOff]
    require_system(arguments, options, f"{slugs()[0]} {EXAMPLE}", slugs(), description)
    return read_command_of(arguments[0].lower().replace("_", "-"), EvaluateOptions, arguments[1:], description)


def read_command_of(slug: str, form: type, arguments: Sequence[str], description: str) -> EvaluateCommand:
    """The same for a system that the line does not name.

    Args:
        form: dataclass of the job's own options, `run` among them.

    Raises:
        UserError, SystemExit: as `read_evaluate_command`.
    """
    flat: Any = tyro.conf.arg(name="")
    options: Any = Annotated[form, flat, tyro.conf.FlagConversionOff]
    kind: Any = config_class(slug)
    run, weights = value_of(arguments, "--run"), value_of(arguments, "--weights")
    if run and weights:
        raise UserError("--run and --weights both say what to evaluate; leave one out.")
    if weights and is_folder(weights):
        raise UserError(f"--weights {weights} is a folder; it must be a file. A run is given as --run {weights}.")
    folder, default = _run_settings(slug, run) if run else (None, kind())
    fields: list[Any] = [
        ("options", options),
        ("config", Annotated[kind, flat, tyro.conf.FlagConversionOff], dataclasses.field(default=default)),
    ]
    found = read_options(dataclasses.make_dataclass("Evaluate", fields, frozen=True), arguments, description)
    return EvaluateCommand(slug, found.options, found.config, folder)


def _run_settings(slug: str, run: str) -> tuple[str, Any]:
    """The output folder of a run and the system's settings in it.

    Raises:
        UserError: there is no run; those of its stages are named, if it has any.
    """
    found = settings_in(slug, run, f"--run {run}")
    if found is not None:
        return found
    stages = [name for name in list_names(run) if settings_in(slug, join(run, name), f"--run {run}/{name}")]
    if stages:
        named = ", ".join(join(run, name) for name in stages)
        raise UserError(f"--run {run} holds the runs of several stages; give one of them: {named}.")
    raise UserError(f"--run {run}: there is no run. Give the folder that the training job wrote as --output.")
