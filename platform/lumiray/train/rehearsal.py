"""One step of training on tensors that have shapes but no memory: what it would hold, and how much work it is.

Torch's fake tensors go through the system's own networks and losses, as `step.accumulate` sends real ones, on a
process group that only pretends to have the other ranks.  Every tensor that comes into being is counted, and
forgotten when autograd lets go of it; so a model of any size is measured on any machine, recomputation of
activations and the loss over the cluster's batch included.  (On torch's meta device attention would take another
kernel than on a CPU or a GPU, one that keeps far more.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lumiray.system import Batch, Player, Stage, System
from lumiray.train.engine import PlayerModule
from lumiray.train.meter import Meter
from lumiray.train.terms import combine

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Cost:
    """What one step of one player costs a worker.

    Args:
        bytes: held at the worst moment of forward and backward, without weights, their gradients and the batch.
        flops: arithmetic per sample, all passes and recomputation included.
    """

    bytes: int
    flops: float


def rehearse(
    system: System,
    stage: Stage,
    player: Player,
    micro_batch: Mapping[str, Any],
    micro_batches: int,
    ranks: int,
    precision: str,
) -> Cost:
    """Measure one step of a player, on networks from `networks_without_memory`; they are of no use afterwards.

    Args:
        stage: what the players before this one leave in the batch is there.
        micro_batch: arrays of any number of rows at least 1, as (shape, torch dtype) by name.
        micro_batches: that this worker runs in a step.

    Raises:
        RuntimeError: the system looks at values on its way, which fake tensors do not have.
    """
    with FakeTensorMode(), pretended(ranks):
        for name, network in system.networks.items():
            without_values(network, DTYPES[precision if name in player.networks else "fp32"])
        batch = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in micro_batch.items()}
        add_what_others_leave(system, stage, player, batch)
        module = PlayerModule(system, player)
        for value in module.parameters():
            if value.requires_grad:
                value.register_post_accumulate_grad_hook(_drop_gradient)
        meter = Meter(iter([*system.networks.parameters(), *system.networks.buffers(), *batch.values()]))
        with meter:
            work = one_step(module, batch, micro_batches, step_with_all(stage), lambda: meter.flops)
    rows = len(next(iter(batch.values())))
    return Cost(meter.most, work / (rows * micro_batches))


def step_with_all(stage: Stage) -> int:
    """The first step of a stage at which all of its players may move."""
    return max(one.start for one in stage.players)


def add_what_others_leave(system: System, stage: Stage, player: Player, batch: Batch) -> None:
    """Put into a batch what the players before this one leave there."""
    for one in stage.players[: [other.name for other in stage.players].index(player.name)]:
        if not one.global_batch:  # with a graph: adaptive weights need one
            batch.update(PlayerModule(system, one)("losses", batch, scale=1.0, step=step_with_all(stage))[2])


def one_step(module: PlayerModule, batch: Batch, micro_batches: int, step: int, clock: Any) -> float:
    """The passes of `step.accumulate`, each run once for one micro-batch.

    Args:
        step: of the stage, 0-based.
        clock: gives a number that grows with the work that is done.

    Returns:
        by how much it would grow in the whole step.
    """
    player, begin = module.player, clock()
    if not player.global_batch or micro_batches == 1:
        call = {"call": "contrast", "masters": None} if player.global_batch else {"call": "losses", "step": step}
        module(batch=batch, scale=1.0, **call)[0].backward()
        return float((clock() - begin) * micro_batches)
    with torch.no_grad():
        rows = module("features", batch)
    first = clock()
    leaves = {name: torch.cat([value] * micro_batches) for name, value in rows.items()}
    for value in leaves.values():
        value.requires_grad_(value.is_floating_point())
    shared = {name: value.detach().float().requires_grad_() for name, value in module.shared(None).items()}
    device = next(iter(batch.values())).device
    combine(module.system.contrast(player.name, leaves, shared), 1.0, device).loss.backward()
    second = clock()
    size = len(next(iter(batch.values())))
    gradients = {name: value.grad[:size] for name, value in leaves.items() if value.grad is not None}
    shared_gradients = {name: value.grad for name, value in shared.items() if value.grad is not None}
    module("surrogate", batch, gradients=gradients, shared_gradients=shared_gradients).backward()
    return float((first - begin + clock() - second) * micro_batches + second - first)


def without_values(network: nn.Module, dtype: torch.dtype) -> None:
    """Replace parameters and buffers by new ones of the same shape, floating ones in `dtype`.

    Inside `FakeTensorMode` they take no memory.
    """
    made: dict[int, tuple[Tensor, nn.Parameter]] = {}  # tied ones stay tied
    for module in network.modules():
        for name, value in [*module.named_parameters(recurse=False)]:
            if id(value) not in made:
                made[id(value)] = (value, nn.Parameter(_like(value, dtype), value.requires_grad))
            setattr(module, name, made[id(value)][1])
        for name, buffer in [*module.named_buffers(recurse=False)]:
            setattr(module, name, _like(buffer, dtype))


def _like(value: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty(value.shape, dtype=dtype if value.is_floating_point() else value.dtype, device="cpu")


def _drop_gradient(value: Tensor) -> None:
    """Gradients of weights are state, and are counted there."""
    value.grad = None


@contextmanager
def pretended(ranks: int) -> Iterator[None]:
    """A process group whose other ranks do not exist: it gives tensors of the right size, with anything in them."""
    if ranks == 1:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()
