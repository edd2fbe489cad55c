"""Weights that nothing trains, and buffers: what an optimizer does not know of, and a checkpoint must not lose.

Frozen weights are kept in the working precision (DeepSpeed casts them with the rest).  Buffers are never broadcast
by DeepSpeed and may differ between ranks (running statistics); those of rank 0 are the run's, as in DDP.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lumiray.train.layout import is_partitioned, layout_of, rewriting, shape_of
from lumiray.train.slices import BUFFER, FROZEN, Fragment, Lookup, share


def frozen_state(engine: Any) -> list[Fragment]:
    """Frozen parameters that this rank is to write: over all ranks every element occurs once."""
    layout = layout_of(engine)
    if is_partitioned(engine):
        found = [own_part(name, layout.parameters[name]) for name in layout.frozen]
        return [one for one in found if one.values.numel()]
    whole = [
        Fragment(name, tuple(layout.parameters[name].shape), 0, layout.parameters[name].detach().reshape(-1))
        for name in layout.frozen
    ]
    if dist.is_initialized():
        return share(whole, dist.get_rank(), dist.get_world_size())
    return whole


def own_part(name: str, parameter: nn.Parameter) -> Fragment:
    """This rank's part of a working weight under ZeRO 3, without its padding; may be empty."""
    size = parameter.ds_tensor.ds_numel
    start = min(size * dist.get_rank(parameter.ds_process_group), parameter.ds_numel)
    length = min(size, parameter.ds_numel - start)
    return Fragment(name, shape_of(parameter), start, parameter.ds_tensor.data.view(-1).narrow(0, 0, length))


def buffers(module: nn.Module) -> dict[str, Tensor]:
    """Persistent buffers by name: those that a state dict has."""
    found = {}
    for prefix, one in module.named_modules():
        for name, value in one.named_buffers(recurse=False):
            if name not in one._non_persistent_buffers_set:
                found[f"{prefix}.{name}" if prefix else name] = value
    return found


def buffer_state(engine: Any) -> list[Fragment]:
    """Persistent buffers that this rank is to write: all on rank 0, none elsewhere."""
    if dist.is_initialized() and dist.get_rank():
        return []
    return [
        Fragment(name, tuple(value.shape), 0, value.detach().reshape(-1))
        for name, value in buffers(engine.module).items()
    ]


def load_frozen_state(engine: Any, lookup: Lookup) -> None:
    """Write frozen parameters and buffers.  Every rank must call it."""
    layout = layout_of(engine)
    with torch.no_grad(), rewriting(engine):
        for name in layout.frozen:
            parameter = layout.parameters[name]
            if is_partitioned(engine):
                part = own_part(name, parameter)
                part.values.copy_(lookup.values(name, FROZEN, part.start, part.values.numel()))
            else:
                values = lookup.values(name, FROZEN, 0, parameter.numel())
                parameter.data.copy_(values.view(parameter.shape))
        for name, value in buffers(engine.module).items():
            value.copy_(lookup.values(name, BUFFER, 0, value.numel()).view(value.shape))
