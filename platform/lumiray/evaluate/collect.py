"""Features of all rows of an evaluation set, in the order of the rows, from any number of ranks."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Value = TypeVar("Value")


class Collected:
    """Rows kept on this rank's CPU until all ranks' rows are put in order.

    Padding and unusable rows (`valid` is False) are dropped here, so results are exact for any tail.
    """

    def __init__(self) -> None:
        self._rows: dict[str, list[Tensor]] = {}

    def add(self, valid: Tensor, **named: Tensor) -> None:
        """Keep the valid rows of one batch; tensors are `(b, ...)`."""
        keep = valid.bool().cpu()
        for name, value in named.items():
            self._rows.setdefault(name, []).append(value.detach().cpu()[keep])

    def everywhere(self, order_by: str) -> dict[str, Tensor]:
        """All ranks' rows on every rank, sorted by an integer column; every rank must call it."""
        own = {name: torch.cat(parts) for name, parts in self._rows.items()}
        if world_size() > 1:
            own = {name: _gathered(value) for name, value in sorted(own.items())}
        order = torch.argsort(own[order_by], stable=True)
        return {name: value[order] for name, value in own.items()}


def _gathered(own: Tensor) -> Tensor:
    """Rows of all ranks, which may have different numbers of them."""
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    count = torch.tensor([len(own)], device=device)
    counts = [torch.empty_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    most = max(int(one) for one in counts)
    padded = torch.zeros(most, *own.shape[1:], dtype=own.dtype, device=device)
    padded[: len(own)] = own.to(device)
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(one)] for part, one in zip(parts, counts, strict=True)]).cpu()


def sum_over_ranks(own: int) -> int:
    """The sum of every rank's count; every rank must call it."""
    if world_size() == 1:
        return own
    total = torch.tensor(own, dtype=torch.int64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(total)
    return int(total)


def gathered_objects(own: Value) -> list[Value]:
    """Every rank's value on every rank, in their order; every rank must call it."""
    if world_size() == 1:
        return [own]
    found: list[Value | None] = [None] * world_size()
    dist.all_gather_object(found, own)
    return found  # type: ignore[return-value]


def world_size() -> int:
    """Ranks that work together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share_of_rank(count: int) -> slice:
    """The part of `count` queries that this rank works on."""
    world = world_size()
    rank = dist.get_rank() if world > 1 else 0
    per_rank = -(-count // world)
    return slice(min(count, rank * per_rank), min(count, (rank + 1) * per_rank))


def gather_ranks(own: Tensor) -> Tensor:
    """Joined results of `share_of_rank` parts, in order."""
    return _gathered(own) if world_size() > 1 else own
