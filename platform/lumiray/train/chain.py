"""Stages that start from one another: what each begins with, and a run of all of them in one command.

jobs/restore_finetune.py codeformer --output runs/faces ...                   every stage, in runs/faces/STAGE
jobs/restore_finetune.py codeformer --stage codes --from runs/vqgan ...       one of them
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lumiray.config import JobConfig, RunConfig
from lumiray.errors import UserError, near
from lumiray.registry import system as make_system
from lumiray.settings_file import to_yaml, without_weights
from lumiray.storage import NotThere, join, read_bytes
from lumiray.system import Stage, System

CONFIG, IDENTITY, STATUS = "config.yaml", "run.json", "status.json"


def stage_jobs(job: JobConfig) -> list[JobConfig]:
    """A job for every stage that the command asks for: the one that is named, or all in their order.

    Of several, each has a folder of its own in the output, the length that is published or given for it, and starts
    from the one before it.

    Raises:
        UserError: a length is given for a stage that does not exist, or all stages are to start from one run.
    """
    stages = make_system(job.slug, job.system).stages()
    lengths = stage_lengths(job.run, stages)
    if job.run.stage is not None or len(stages) == 1:
        return [job]
    if job.run.start_from:
        raise UserError(f"--from says where one stage starts: name it with --stage ({_names(stages)}).")
    if job.run.resume not in ("auto", "never"):
        raise UserError(f"--resume {job.run.resume} is of one stage: name it with --stage ({_names(stages)}).")
    found = []
    for one in stages:
        run = replace(
            job.run,
            stage=one.name,
            stage_steps=(),
            steps=lengths.get(one.name, job.run.steps),
            epochs=None if one.name in lengths else job.run.epochs,
            output=join(str(job.run.output), one.name),
            start_from=join(str(job.run.output), one.start) if one.start else None,
        )
        system = without_weights(job.system) if one.start else job.system  # they are where the first stage starts
        found.append(replace(job, run=run, system=system))
    return found


def stage_lengths(run: RunConfig, stages: tuple[Stage, ...]) -> dict[str, int]:
    """Steps by stage from `--stage-steps`.

    Raises:
        UserError: it is written in another way, or names no stage.
    """
    names = [one.name for one in stages]
    found = {}
    for text in run.stage_steps:
        name, _, steps = text.partition("=")
        if not steps.isdecimal() or int(steps) < 1:
            raise UserError(f"--stage-steps {text!r} is not STAGE=STEPS with at least 1 step, such as {names[0]}=1000.")
        if name not in names:
            raise UserError(
                f"--stage-steps {text!r}: there is no such stage.{near(name, names)} There are {_names(stages)}."
            )
        found[name] = int(steps)
    return found


def _names(stages: tuple[Stage, ...]) -> str:
    return ", ".join(one.name for one in stages)


def is_done(job: JobConfig) -> bool:
    """Whether a stage's run with exactly this configuration has come to its end."""
    try:
        status = json.loads(read_bytes(join(str(job.run.output), STATUS)))
        return status.get("state") == "done" and read_bytes(join(str(job.run.output), CONFIG)).decode() == to_yaml(job)
    except (NotThere, ValueError, AttributeError):
        return False


def check_start(job: JobConfig, stage: Stage) -> None:
    """See that a stage has what it starts from.

    Raises:
        UserError: it starts from another one and no run is named, or the run is of another system or stage.
    """
    start = job.run.start_from
    if start is None:
        if stage.start is not None and (stage.derives or getattr(job.system, "weights", None) is None):
            raise UserError(
                f"{job.slug}/{stage.name} starts from the result of {stage.start}: name that run, --from RUN, or give "
                "no --stage, and all stages are trained one after the other."
            )
        return
    try:
        told = json.loads(read_bytes(join(start, IDENTITY)))["identity"]
        slug, name = told["system"], told["stage"]
    except NotThere:
        raise UserError(f"--from {start}: there is no run.") from None
    except (ValueError, LookupError, TypeError):
        raise UserError(f"--from {start}: its {IDENTITY} is not what a run leaves there.") from None
    fitting = [one for one in (stage.start, None if stage.derives else stage.name) if one]
    if slug != job.slug or name not in fitting:
        wanted = " or ".join(f"{job.slug}/{one}" for one in fitting)
        raise UserError(f"--from {start} is a run of {slug}/{name}, and {job.slug}/{stage.name} starts from {wanted}.")
    from lumiray.train.manifest import latest

    if latest(start) is None:
        raise UserError(f"--from {start} has no complete checkpoint yet.")


def start_from(run: str, system: System, stage: Stage) -> int:
    """Fill the networks of a stage from the newest checkpoint of another run; how many tensors they took.

    Raises:
        UserError: nothing fits, or a tensor has another shape.
    """
    from lumiray.train.manifest import open_checkpoint
    from lumiray.train.restore import export_model

    manifest = open_checkpoint(run)
    same = manifest.identity.get("stage") == stage.name
    state = export_model(manifest)
    taken = state if same else system.carried(stage, state)
    return fill(system, taken, f"--from {run}")


def fill(system: System, taken: Mapping[str, Any], source: str) -> int:
    """Put tensors into the networks by name; how many.

    Args:
        source: where they come from, for messages.

    Raises:
        UserError: nothing fits, or a tensor has another shape.
    """
    own = system.networks.state_dict()
    unknown = [name for name in taken if name not in own]
    shaped = [name for name, value in taken.items() if name in own and own[name].shape != value.shape]
    if unknown or shaped or not taken:
        what = f"no place for {unknown[0]}" if unknown else f"another shape of {shaped[0]}" if shaped else "none of it"
        raise UserError(f"{source} does not fit: this run has {what}; the networks' settings must be the same.")
    system.networks.load_state_dict({**own, **taken})
    return len(taken)
