"""What of a job may change in the middle of a run: that under which a checkpoint still is one of the same run.

A population's trial goes on from another's checkpoint with other values of its own.  So none of them may decide which
tensors a checkpoint holds, which rows come at which step, or how the learning rate goes over the whole run.

* Of the platform's own settings these are the optimizer's plain numbers, read anew at every start of a run.
* Of a system's settings it is every one under which the networks have the same tensors, and the stage the same players,
  rows and length: weights of losses, augmentation, the size of crops where the network takes any.  Networks of both
  ends of an axis are built, as shapes alone, and compared.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from lumiray.config import JobConfig, RunConfig
from lumiray.errors import UserError
from lumiray.registry import system as make_system
from lumiray.settings_file import without_weights
from lumiray.system import Stage, stage_named
from lumiray.tune.space import Axis, Choice, Space, ends, with_values

NUMBERS = {"lr", "optimizer.weight_decay", "optimizer.betas", "optimizer.eps", "engine.clip_norm"}
ROWS = {"seed", "global_batch_size", "micro_batch_size", "data"}
COURSE = {"steps", "epochs", "warmup", "optimizer"}
STARTS = "weights"  # of a system: what its first step begins with


def check_changeable(space: Space, job: JobConfig, scheduler: str, source: str) -> None:
    """See that every axis of a space may change within a run.

    Args:
        scheduler: pbt or pb2, which takes numbers alone.
        source: what the space is called in messages.

    Raises:
        UserError: names the field that may not, why, and what to do.
    """
    platforms = {one.name for one in dataclasses.fields(RunConfig)}
    for axis in space.axes:
        if axis.when:
            raise UserError(
                f"{source}: {axis.field} depends on other fields, and --scheduler {scheduler} changes each on its own: "
                "leave out its when."
            )
        if scheduler == "pb2" and isinstance(axis.over, Choice):
            raise UserError(
                f"{source}: {axis.field} is a choice, and --scheduler pb2 models numbers: give an interval or int, or "
                "take --scheduler pbt."
            )
        if axis.field.partition(".")[0] in platforms:
            why = None if axis.field in NUMBERS else _decides(axis.field)
        else:
            why = _changes(axis, job, source)
        if why:
            raise UserError(
                f"{source}: {axis.field} cannot change within a run, as --scheduler {scheduler} would have it: it "
                f"decides {why}. Leave it out of --space and give it on the command line, or search it with "
                "--scheduler asha."
            )


def _decides(field: str) -> str:
    """What a setting of the platform decides that has to stay."""
    group = field.partition(".")[0]
    if group in ROWS:
        return "which rows come at which step"
    if group in COURSE and field != "optimizer.name":
        return "how the learning rate goes over the whole run"
    return "what a checkpoint holds, or how its numbers are computed"


def _changes(axis: Axis, job: JobConfig, source: str) -> str | None:
    """What a system's setting decides that has to stay, if it does."""
    if axis.field == STARTS:
        return "what the first step begins with"
    own = _made(job)
    for value in ends(axis, source):
        tensors, stage = _made(with_values(job, {axis.field: value}, source))
        if tensors != own[0]:
            name = min(one for one, _ in tensors.items() ^ own[0].items())
            return f"the networks' tensors ({name} would be another one)"
        if stage != own[1]:
            return "what the stage is: its players, their optimizers, its rows or length"
    return None


def _made(job: JobConfig) -> tuple[dict[str, Any], Stage]:
    """The networks' tensors as (shape, dtype, trained) by name, and the stage without the optimizer's numbers."""
    from lumiray.train.without_memory import networks_without_memory

    system = make_system(job.slug, without_weights(job.system))
    networks = networks_without_memory(system, stage_named(system, job.run.stage))
    tensors: dict[str, Any] = {
        name: (tuple(one.shape), one.dtype, one.requires_grad) for name, one in networks.named_parameters()
    }
    tensors |= {name: (tuple(one.shape), one.dtype, False) for name, one in networks.named_buffers()}
    stage = stage_named(system, job.run.stage)  # names without decay are known once networks exist
    players = tuple(
        dataclasses.replace(one, optimizer=dataclasses.replace(one.optimizer, lr=0.0, weight_decay=0.0))
        for one in stage.players
    )
    return tensors, dataclasses.replace(stage, players=players)
