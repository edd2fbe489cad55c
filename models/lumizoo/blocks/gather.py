"""Rows of all ranks, with gradient: what a loss over the whole cluster's batch is built on.

Backward sums, over all ranks, the gradient that reaches each piece (card clip, Losses: "gathered with
gradient").  So when every rank's loss is its own rows' share of the global loss, the gradient of a rank's rows
is exact.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Ranks that share the batch; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This rank's number; 0 without torch.distributed."""
    return dist.get_rank() if world_size() > 1 else 0


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        everyone = rows.new_empty(world_size() * len(rows), *rows.shape[1:])
        dist.all_gather_into_tensor(everyone, rows.contiguous())
        return everyone

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        own = gradient.new_empty(len(gradient) // world_size(), *gradient.shape[1:])
        if dist.get_backend() == "nccl":
            dist.reduce_scatter_tensor(own, gradient)
            return own
        dist.all_reduce(gradient)  # gloo scatters nothing; the other ranks' pieces are dropped
        return gradient[rank() * len(own) : (rank() + 1) * len(own)]


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all ranks in rank order, `(W * b, ...)`; differentiable where the dtype is.

    Every rank must call it with equally many rows.
    """
    if world_size() == 1:
        return rows
    return _GatherRows.apply(rows)
