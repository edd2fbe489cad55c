"""A stage's players on one rank: their engines, and the numbers that their last moves gave."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lumiray.config import RunConfig
from lumiray.system import Batch, Player, Stage, System
from lumiray.train.average import update_average
from lumiray.train.clamp import clamp
from lumiray.train.engine import make_engine, take_step
from lumiray.train.gather import master_values
from lumiray.train.recipe import resolved_player
from lumiray.train.step import Sums, reduce_sums


@dataclass
class Trained:
    """A player with its engine."""

    player: Player
    engine: Any

    def step(self) -> float | None:
        """Let the optimizer step, then clamp and average.

        Returns:
            The gradients' norm before clipping, or None if they are not finite: nothing has moved.
        """
        norm = take_step(self.engine)
        if norm is not None:
            clamp(self.engine, dict(self.player.clamps))
            if self.player.ema is not None:
                update_average(self.engine, self.player.ema)
        return norm

    def masters(self, run: RunConfig) -> Batch | None:
        """fp32 master values of parameters that the loss reads; None where the weights are fp32 and whole."""
        names = self.player.shared
        if not names or (run.precision == "fp32" and self.engine.zero_optimization_stage() < 3):
            return None
        return master_values(self.engine, list(names))


@dataclass
class Counters:
    """What a checkpoint's position holds besides the weights; plain numbers only.

    Args:
        step: finished steps.
        skipped: player -> steps at which it was to move and did not, for something was not finite.
        skipped_in_a_row: the same, since its last move.
    """

    step: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    skipped_in_a_row: dict[str, int] = field(default_factory=dict)
    replaced_rows: int = 0

    def moved(self, player: str) -> None:
        """Note that a player has moved."""
        self.skipped_in_a_row.pop(player, None)

    def left_out(self, player: str) -> int:
        """Note that a player could not move; how often now in a row."""
        for counts in (self.skipped, self.skipped_in_a_row):
            counts[player] = counts.get(player, 0) + 1
        return self.skipped_in_a_row[player]


@dataclass(frozen=True)
class Moved:
    """What a player's last turn gave on this rank.

    Args:
        sums: None where the loss was not finite.
    """

    lr: float
    sums: Sums | None = None
    grad_norm: float = math.nan


def make_players(system: System, stage: Stage, run: RunConfig, rows_per_rank: int, device: Any) -> dict[str, Trained]:
    """Engines for every player of the stage, by the player's name."""
    trained = {}
    for published in stage.players:
        player = resolved_player(published, run)
        trained[player.name] = Trained(player, make_engine(system, player, run, rows_per_rank, device))
    return trained


def numbers(players: Mapping[str, Trained], moved: Mapping[str, Moved]) -> dict[str, float]:
    """What is logged of the players' last moves, reduced over ranks; every rank must call it.

    Those of the stage's first player have plain names, those of another one `NAME.` in front.
    """
    found: dict[str, float] = {}
    first = next(iter(players))
    for name, one in moved.items():
        terms = reduce_sums(one.sums) if one.sums else {}
        loss = sum(one.sums[term][2] * value for term, value in terms.items()) if one.sums else math.nan
        own: dict[str, float] = {"loss": loss, "lr": one.lr, "grad_norm": one.grad_norm}
        own |= terms if len(terms) > 1 else {}
        trained = players[name]
        if trained.player.shared:
            stored = master_values(trained.engine, list(trained.player.shared))
            own |= {full.rpartition(".")[2]: float(value) for full, value in stored.items()}
        found |= own if name == first else {f"{name}.{key}": value for key, value in own.items()}
    return found


def memory_gb(device: torch.device) -> float:
    """Peak memory of this rank: on the GPU the allocator's, on the CPU the resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
