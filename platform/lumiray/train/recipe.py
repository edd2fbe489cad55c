"""The published recipe of a stage with the user's values in place of published ones.  Without torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from lumiray.config import FinetuneConfig, RunConfig
from lumiray.errors import UserError
from lumiray.system import Optimizer, Player, Schedule, Stage
from lumiray.train.schedule import check_schedule
from lumiray.train.sizes import Sizes


def resolved_optimizer(published: Optimizer, run: RunConfig) -> Optimizer:
    """The player's published optimizer with the values that the user gave in their place."""
    own = run.optimizer
    given: dict[str, Any] = {
        "name": own.name,
        "lr": run.lr,
        "betas": own.betas,
        "eps": own.eps,
        "weight_decay": own.weight_decay,
    }
    return replace(published, **{name: value for name, value in given.items() if value is not None})


def resolved_player(player: Player, run: RunConfig) -> Player:
    """The published player with the user's optimizer and schedule in place."""
    own, schedule = run.optimizer, player.schedule
    if own.schedule is not None:
        schedule = Schedule(own.schedule, schedule.warmup, own.cooldown, own.cooldown_power, own.cooldown_end)
    if run.warmup is not None:
        schedule = replace(schedule, warmup=run.warmup)
    return replace(player, optimizer=resolved_optimizer(player.optimizer, run), schedule=schedule)


def check_recipe(run: RunConfig, stage: Stage, steps: int) -> None:
    """See that every player's schedule fits the run's length.

    Raises:
        UserError: it does not.
    """
    for player in stage.players:
        check_schedule(resolved_player(player, run).schedule, steps)
        check_zero(player, run.zero or 0)


def check_zero(player: Player, zero: int) -> None:
    """Refuse a ZeRO stage under which a player's losses cannot be computed.

    Raises:
        UserError: names the player.
    """
    if zero == 3 and player.inner_gradients:
        raise UserError(
            f"--zero 3 cannot train {player.name}: its losses take gradients within the forward pass (an adaptive "
            "weight), and ZeRO 3 has the parameters only for a moment each. Take --zero 2."
        )


def run_length(run: RunConfig, stage: Stage) -> int | None:
    """Steps of a run where they are given or published; None where `--epochs` says how long it is.

    Raises:
        UserError: nothing says it.
    """
    steps = run.steps if run.steps is not None or run.epochs is not None else stage.steps
    if steps is None and run.epochs is None:
        raise UserError("Give --steps or --epochs, one of the two: the published recipe names no length.")
    return steps


def scaled_lr(run: RunConfig, stage: Stage, sizes: Sizes) -> float | None:
    """The published learning rate under `optimizer.lr_rule`, or None where nothing changes it."""
    published = stage.global_batch_size
    if run.lr is not None or published is None or run.optimizer.lr_rule == "none":
        return None
    if len({player.optimizer.lr for player in stage.players}) > 1:
        raise UserError(
            f"--optimizer.lr-rule {run.optimizer.lr_rule}: the players of {stage.name} have rates of their own, which "
            "one rule cannot scale; leave it out."
        )
    ratio = sizes.global_batch_size / published
    factor = ratio if run.optimizer.lr_rule == "linear" else math.sqrt(ratio)
    return stage.players[0].optimizer.lr * factor


def rate_factors(settings: FinetuneConfig) -> list[tuple[str, float]]:
    """(pattern, factor of the learning rate) as given.

    Raises:
        UserError: written in another way.
    """
    found = []
    for text in settings.lr_factor:
        pattern, _, factor = text.rpartition("=")
        try:
            number = float(factor)
        except ValueError:
            number = -1.0
        if not pattern or not 0 <= number < float("inf"):
            raise UserError(f"--finetune.lr-factor {text!r} is not PATTERN=FACTOR, such as 'net.first.*=0.1'.")
        found.append((pattern, number))
    return found


def factor_of(name: str, factors: Iterable[tuple[str, float]]) -> float:
    """By what a parameter's learning rate is multiplied: of several patterns that it fits, the last one counts."""
    own = name.rpartition(".")[0] + ".weight" if ".adapter_" in name else name
    found = [factor for pattern, factor in factors if fnmatchcase(name, pattern) or fnmatchcase(own, pattern)]
    return found[-1] if found else 1.0
