"""Two tiny systems for tests of the trainer: a contrast over the global batch, and a per-batch mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lumiray.system import Batch, Optimizer, Player, Record, Row, Schedule, Scope, Stage, System, Term


class Gather(torch.autograd.Function):
    """All ranks' rows; backward sums what every rank says about the own rows."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        ctx.world = world
        if world == 1:
            return rows.clone()
        parts = [torch.empty_like(rows) for _ in range(world)]
        torch.distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        if ctx.world == 1:
            return gradient
        gradient = gradient.contiguous()
        torch.distributed.all_reduce(gradient)
        own = gradient.chunk(ctx.world)[torch.distributed.get_rank()]
        return own


@dataclass(frozen=True)
class ToyConfig:
    """Width and dropout of the toy towers."""

    width: int = 24
    dropout: float = 0.2
    lr: float = 0.05
    optimizer: str = "sgd"
    clamp_high: float = 4.6052


class ToyContrast(System):
    """Two towers and a softmax contrast over all rows of the cluster."""

    slug = "toy-contrast"
    config_class = ToyConfig

    def stages(self) -> tuple[Stage, ...]:
        player = Player(
            "toy",
            ("towers",),
            Optimizer(self.config.optimizer, lr=self.config.lr),
            Schedule("cosine", warmup=2),
            clamps={"towers.logit_scale": (0.0, self.config.clamp_high)},
            global_batch=True,
            shared=("towers.logit_scale",),
        )
        return (Stage("pretrain", Record.IMAGE_TEXT, (player,)),)

    def build(self, stage: Stage) -> nn.ModuleDict:
        self.networks = nn.ModuleDict({"towers": Towers(self.config)})
        return self.networks

    def prepare(self, stage: Stage, row: Row, draw: np.random.Generator | None) -> dict:
        raise AssertionError("tests feed tensors")

    def features(self, player: str, batch: Batch) -> dict[str, Tensor]:
        left, right = self.networks["towers"](batch["left"], batch["right"])
        return {"left": left, "right": right, "id": batch["id"]}

    def contrast(self, player: str, rows: dict[str, Tensor], shared: dict[str, Tensor]) -> dict[str, Term]:
        scale = shared["towers.logit_scale"].exp()
        every_left, every_right = Gather.apply(rows["left"]), Gather.apply(rows["right"])
        world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        rank = torch.distributed.get_rank() if world > 1 else 0
        count = len(rows["left"])
        labels = torch.arange(count) + rank * count
        loss = sum(
            nn.functional.cross_entropy(scale * one @ every.T, labels, reduction="sum")
            for one, every in ((rows["left"], every_right), (rows["right"], every_left))
        )
        return {"contrastive": Term(loss / 2, count, Scope.GLOBAL)}

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return self.features("toy", batch)


class Towers(nn.Module):
    """Two small towers with dropout, and a stored log scale."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        width = config.width
        self.left = nn.Sequential(nn.Linear(8, width), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(width, 6))
        self.right = nn.Sequential(nn.Linear(5, width), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(width, 6))
        self.logit_scale = nn.Parameter(torch.full((1,), 2.6593))

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        dtype = self.logit_scale.dtype
        left, right = self.left(left.to(dtype)), self.right(right.to(dtype))
        return (nn.functional.normalize(left.float(), dim=1), nn.functional.normalize(right.float(), dim=1))


class ToyRegression(System):
    """A per-micro-batch mean and a term whose count differs from batch to batch."""

    slug = "toy-regression"
    config_class = ToyConfig

    def stages(self) -> tuple[Stage, ...]:
        player = Player("toy", ("net",), Optimizer(self.config.optimizer, lr=self.config.lr))
        return (Stage("fit", Record.PAIR, (player,)),)

    def build(self, stage: Stage) -> nn.ModuleDict:
        width = self.config.width
        net = nn.Sequential(nn.Linear(8, width), nn.GELU(), nn.Dropout(self.config.dropout), nn.Linear(width, 5))
        self.networks = nn.ModuleDict({"net": net})
        return self.networks

    def prepare(self, stage: Stage, row: Row, draw: np.random.Generator | None) -> dict:
        raise AssertionError("tests feed tensors")

    def losses(self, player: str, batch: Batch, step: int) -> dict[str, Term]:
        error = self.networks["net"](batch["left"]) - batch["right"]
        return {"l2": Term.mean(error.square().mean()), "l1": Term.mean(error.abs().mean(), weight=0.5)}


class ToyCounted(ToyRegression):
    """Two terms over the items of the whole global batch: few rows have any, and the second counts at least some."""

    slug = "toy-counted"

    def counts(self, player: str, batch: Batch) -> dict[str, Tensor]:
        chosen = (batch["left"][:, 0] > 1.0).sum()
        return {"chosen": chosen, "rare": (batch["left"][:, 0] > 9.0).sum()}

    def losses(self, player: str, batch: Batch, step: int) -> dict[str, Term]:
        error = (self.networks["net"](batch["left"]) - batch["right"]).square().mean(1)
        chosen, count = batch["left"][:, 0] > 1.0, self.counts(player, batch)
        return {
            "chosen": Term(error[chosen].sum(), count["chosen"], Scope.GLOBAL),
            "rare": Term(error.sum(), count["rare"], Scope.GLOBAL, weight=0.5, least=2.0),
        }
