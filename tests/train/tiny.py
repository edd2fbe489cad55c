"""A tiny network with everything that makes state awkward, in real DeepSpeed engines on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

ROWS = 12  # of a global batch: dealt out evenly to 1, 2 or 3 ranks
BOUNDS = {"scale": (3.9991, 4.0013)}  # around its first value, nearer than one step moves it


class Tiny(nn.Module):
    """Odd sizes, one element, no use, tied, frozen, and buffers of which one has no dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 11)
        self.frozen = nn.Linear(11, 11).requires_grad_(False)
        self.shift = nn.Parameter(torch.randn(11))
        self.scale = nn.Parameter(torch.full((1,), 4.0))
        self.unused = nn.Parameter(torch.randn(5))
        self.last = nn.Linear(11, 3)
        self.tied = nn.Linear(7, 11, bias=False)
        self.tied.weight = self.first.weight
        self.register_buffer("running", torch.randn(11))
        self.register_buffer("count", torch.tensor(int(torch.randint(100, ()))))
        self.register_buffer("mask", torch.ones(3), persistent=False)

    def forward(self, rows: Tensor, targets: Tensor) -> Tensor:
        self.count += 1
        rows = rows.to(self.shift.dtype)
        hidden = torch.tanh(self.frozen(self.first(rows) + self.tied(rows)) + self.shift)
        out = self.last(hidden).float() * self.mask
        return (out * self.scale.float() - targets).square().mean()


def make_engine(stage: int, precision: str = "fp32", seed: int = 0, **given: Any) -> Any:
    """A DeepSpeed engine around `Tiny` with weights drawn from the seed.

    Args:
        given: optimizer=adamw|cpu-adam|sgd|momentum; zero={...} and settings={...}, further configuration;
            change=function that alters the module first.
    """
    import deepspeed

    torch.manual_seed(seed)
    module = Tiny()
    given.get("change", lambda module: None)(module)
    trained = [value for value in module.parameters() if value.requires_grad]
    groups = [
        {"params": [value for value in trained if value.ndim > 1], "weight_decay": 0.1},
        {"params": [value for value in trained if value.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = make_optimizer(given.get("optimizer", "adamw"), groups)
    zero = {"stage": stage, **given.get("zero", {})}
    if stage == 3:  # some weights stay gathered between steps, others not; several sub-groups
        zero |= {"stage3_param_persistence_threshold": 20, "sub_group_size": 40}
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=optimizer,
        config={
            "train_micro_batch_size_per_gpu": ROWS // torch.distributed.get_world_size(),
            "zero_optimization": zero,
            "bf16": {"enabled": precision == "bf16"},
            "fp16": {"enabled": precision == "fp16"},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            **given.get("settings", {}),
        },
        dist_init_required=False,
    )
    from lumiray.train.fragments import start_fresh

    start_fresh(engine)
    return engine


def make_optimizer(kind: str, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """adamw, cpu-adam (DeepSpeed's, for offload), sgd, or momentum."""
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=0.02)
    if kind == "cpu-adam":
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(groups, lr=0.02)
    return torch.optim.SGD(groups, lr=0.02, momentum=0.9 if kind == "momentum" else 0.0)


def train(engine: Any, first: int, last: int, clamped: bool = False) -> list[float]:
    """Steps [first, last) on rows that follow from the step's number alone; this rank's losses."""
    from lumiray.train.fragments import clamp

    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    losses = []
    for step in range(first, last):
        draw = torch.Generator().manual_seed(step)
        rows, targets = torch.randn(ROWS, 7, generator=draw), torch.randn(ROWS, 3, generator=draw)
        own = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
        loss = engine(rows[own], targets[own])
        engine.backward(loss)
        engine.step()
        if clamped:
            clamp(engine, BOUNDS)
        losses.append(float(loss.detach()))
    return losses


def state(engine: Any) -> dict[str, list[float]]:
    """All that this rank's fragments, frozen parts and buffers hold, as plain numbers."""
    from lumiray.train.fragments import buffer_state, frozen_state, local_fragments

    found: dict[str, list[float]] = {}
    for one in local_fragments(engine):
        found[f"{one.name}@{one.start}/step"] = [-1.0 if one.step is None else float(one.step)]
    for one in [*local_fragments(engine), *frozen_state(engine), *buffer_state(engine)]:
        found[f"{one.name}@{one.start}"] = one.values.double().tolist()
        for key, value in one.moments.items():
            found[f"{one.name}@{one.start}/{key}"] = value.double().tolist()
    return found


def working(engine: Any) -> dict[str, list[float]]:
    """The weights that a forward would see, gathered."""
    import deepspeed

    found = {}
    for name, value in engine.module.named_parameters():
        if hasattr(value, "ds_id"):
            with deepspeed.zero.GatheredParameters([value]):
                found[name] = value.detach().double().flatten().tolist()
        else:
            found[name] = value.detach().double().flatten().tolist()
    return found
