"""One rank's part of the state, copied out of the device: all that training has to wait for when it saves.

The copies go into buffers of the host that are kept from one save to the next (pinned where the state is on a GPU):
making them anew costs more than filling them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lumiray.train.fragments import buffer_state, frozen_state, owned_fragments
from lumiray.train.frozen import buffers
from lumiray.train.layout import layout_of, shape_of
from lumiray.train.loss_scale import loss_scale_state
from lumiray.train.manifest import SavedPiece, SavedPlayer, SavedTensor
from lumiray.train.slices import BUFFER, FROZEN, MASTER


@dataclass(frozen=True)
class Snapshot:
    """What one rank writes.

    Args:
        pieces: with their values by key, on the CPU; valid until the next snapshot into the same buffers.
        players: all tensors of every player, with the counts of steps that this rank knows.
    """

    pieces: list[tuple[SavedPiece, dict[str, Tensor]]]
    players: dict[str, SavedPlayer]


class HostBuffers:
    """Memory on the host that copies go into, one block per dtype."""

    def __init__(self) -> None:
        self._blocks: dict[torch.dtype, Tensor] = {}

    def copy(self, tensors: list[Tensor]) -> list[Tensor]:
        """Copies of tensors of one dimension; those of the call before are overwritten."""
        from_gpu = any(one.is_cuda for one in tensors)
        sizes: dict[torch.dtype, int] = {}
        for one in tensors:
            sizes[one.dtype] = sizes.get(one.dtype, 0) + one.numel()
        for dtype, size in sizes.items():
            if dtype not in self._blocks or self._blocks[dtype].numel() < size:
                self._blocks.pop(dtype, None)
                self._blocks[dtype] = torch.empty(size, dtype=dtype, pin_memory=from_gpu)
        used = dict.fromkeys(sizes, 0)
        copies = []
        for one in tensors:
            copy = self._blocks[one.dtype].narrow(0, used[one.dtype], one.numel())
            used[one.dtype] += one.numel()
            copies.append(copy.copy_(one, non_blocking=True))
        if from_gpu:
            torch.cuda.synchronize()
        return copies


def take(engines: Mapping[str, Any], into: HostBuffers) -> Snapshot:
    """Copy this rank's part of all engines' state."""
    pieces: list[tuple[SavedPiece, dict[str, torch.Tensor]]] = []
    sources: list[torch.Tensor] = []
    for player, engine in engines.items():
        for key, fragments in (
            (MASTER, owned_fragments(engine)),
            (FROZEN, frozen_state(engine)),
            (BUFFER, buffer_state(engine)),
        ):
            for one in fragments:
                values = {key: one.values, **one.moments}
                piece = SavedPiece(player, one.name, one.start, one.values.numel(), tuple(values))
                pieces.append((piece, values))
                sources += values.values()
    copies = iter(into.copy(sources))
    return Snapshot(
        [(piece, {key: next(copies) for key in values}) for piece, values in pieces],
        {player: table(engine) for player, engine in engines.items()},
    )


def table(engine: Any) -> SavedPlayer:
    """All tensors of an engine; steps only of those with an element on this rank."""
    layout = layout_of(engine)
    steps = {one.name: one.step for one in owned_fragments(engine)}
    tensors = {
        name: SavedTensor(shape_of(value), "trained" if name in layout.trained else "frozen", steps.get(name))
        for name, value in layout.parameters.items()
    }
    tensors |= {name: SavedTensor(tuple(value.shape), "buffer") for name, value in buffers(engine.module).items()}
    named = {id(value): name for name, value in layout.parameters.items()}
    aliases = {
        name: named[id(value)]
        for name, value in engine.module.named_parameters(remove_duplicate=False)
        if name not in layout.parameters
    }
    return SavedPlayer(tensors, loss_scale_state(engine), aliases)
