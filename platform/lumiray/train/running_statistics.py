"""Running statistics of batch normalisation that do not depend on the number of ranks.

Each forward in training moves them by its own micro-batch: r <- (1 - m) r + m s.  A rank sees only its own
micro-batches, so ranks drift apart, and what a checkpoint holds would depend on who wrote it.  After each
player's turn the ranks are put together as if one of them had run all micro-batches in their order.  With n moves on
each of W ranks:

    r = (1 - m)^(nW) r0 + sum over ranks w of (1 - m)^(n (W - 1 - w)) (r_w - (1 - m)^n r0)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class _Before:
    """One layer as it was before the turn."""

    mean: Tensor
    variance: Tensor
    count: int


class RunningStatistics:
    """The batch normalisation layers of all networks of a stage; every rank makes one and calls it alike.

    Args:
        networks: of the system; layers with a fixed momentum are looked after.
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        self._layers = list(_layers(networks))
        self._before: list[_Before] = []

    def before_turn(self) -> None:
        """Note the statistics that a player's turn begins with, equal on all ranks."""
        self._before = [
            _Before(one.running_mean.clone(), one.running_var.clone(), int(one.num_batches_tracked))  # type: ignore[union-attr,arg-type]
            for one in self._layers
        ]

    def after_turn(self, applied: bool) -> None:
        """Put the ranks' statistics together; of a turn that moved nothing none stay, it may be NaN."""
        for layer, before in zip(self._layers, self._before, strict=True):
            if not applied:
                _write(layer, before.mean, before.variance, before.count)
            elif dist.is_initialized() and dist.get_world_size() > 1:
                _put_together(layer, before)


def _layers(networks: Iterable[nn.Module]) -> Iterator[nn.modules.batchnorm._BatchNorm]:
    for network in networks:
        for one in network.modules():
            if isinstance(one, nn.modules.batchnorm._BatchNorm) and one.track_running_stats and one.momentum:
                yield one


def _put_together(layer: nn.modules.batchnorm._BatchNorm, before: _Before) -> None:
    moves = int(layer.num_batches_tracked or 0) - before.count
    if not moves:
        return
    rank, world = dist.get_rank(), dist.get_world_size()
    stays = (1 - float(layer.momentum or 0)) ** moves
    first = torch.cat((before.mean, before.variance))
    own = torch.cat((layer.running_mean, layer.running_var))  # type: ignore[arg-type]
    added = (own - stays * first) * stays ** (world - 1 - rank)
    dist.all_reduce(added)
    mean, variance = (stays**world * first + added).chunk(2)
    _write(layer, mean, variance, before.count + moves * world)


def _write(layer: nn.modules.batchnorm._BatchNorm, mean: Tensor, variance: Tensor, count: int) -> None:
    layer.running_mean.copy_(mean)  # type: ignore[union-attr]
    layer.running_var.copy_(variance)  # type: ignore[union-attr]
    layer.num_batches_tracked.fill_(count)  # type: ignore[union-attr]
