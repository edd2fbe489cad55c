"""Learning rate by optimizer step (card clip, Training): set before the step's forward pass."""

from __future__ import annotations

import math

from lumiray.errors import UserError
from lumiray.system import Schedule

NAMES = ("cosine", "constant", "constant-cooldown", "steps")


def check_schedule(schedule: Schedule, total_steps: int) -> None:
    """Refuse a schedule that does not fit the run.

    Raises:
        UserError: unknown name, or warm-up and cool-down longer than the run.
    """
    if schedule.name not in NAMES:
        raise UserError(f"no schedule {schedule.name!r}; there are {', '.join(NAMES)}.")
    if schedule.warmup > total_steps:
        raise UserError(
            f"--warmup {schedule.warmup} is longer than the run's {total_steps} steps; lower it, or train longer."
        )
    if schedule.name == "constant-cooldown" and not 0 < schedule.cooldown <= total_steps - schedule.warmup:
        raise UserError(
            f"--optimizer.cooldown {schedule.cooldown} must lie between 1 and the {total_steps - schedule.warmup} "
            "steps after the warm-up."
        )


def learning_rate(schedule: Schedule, lr: float, step: int, total_steps: int) -> float:
    """The rate of 0-based optimizer step `step` of `total_steps`; `lr` is the peak."""
    warmup, cooldown = schedule.warmup, schedule.cooldown
    if step < warmup:
        return lr * (step + 1) / warmup
    if schedule.name == "cosine":
        part = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))
        return schedule.floor + part * (lr - schedule.floor)
    if schedule.name == "steps":
        passed = sum(step >= (one if one >= 1 else one * total_steps) for one in schedule.milestones)
        return lr * schedule.factor**passed
    start = total_steps - cooldown
    if schedule.name == "constant-cooldown" and step >= start:
        left = (1 - (step - start) / cooldown) ** schedule.cooldown_power
        return left * (lr - schedule.cooldown_end) + schedule.cooldown_end
    return lr
