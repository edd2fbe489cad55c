"""Whole master values out of slices that lie on many ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lumiray.train.frozen import buffers, own_part
from lumiray.train.layout import in_memory, is_partitioned, is_replicated, layout_of, shape_of, slice_of


def master_values(engine: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """Whole fp32 master values of a few small parameters, on every rank; one small collective for all.

    Args:
        names: stored parameter names, equal on all ranks; those that the networks do not have are left out.

    Returns:
        name -> fp32 tensor of the parameter's shape on the engine's device, owned by the caller.
    """
    parameters = layout_of(engine).parameters
    wanted = [name for name in names if name in parameters]
    shapes = {name: shape_of(parameters[name]) for name in wanted}
    sizes = [math.prod(shapes[name]) for name in wanted]
    buffer = torch.zeros(sum(sizes), dtype=torch.float32, device=engine.device)
    parts = dict(zip(wanted, buffer.split(sizes), strict=True))
    summed = dist.is_initialized() and dist.get_world_size() > 1 and not is_replicated(engine)
    with torch.no_grad():
        for name, part in parts.items():
            _contribute(engine, name, part, first=not summed or dist.get_rank() == 0)
    if summed and wanted:
        dist.all_reduce(buffer)
    return {name: part.view(shapes[name]) for name, part in parts.items()}


def _contribute(engine: Any, name: str, part: Tensor, first: bool) -> None:
    """Write the elements that this rank holds; those that every rank holds only if it is the `first`."""
    layout = layout_of(engine)
    parameter = layout.parameters[name]
    if name in layout.places:
        number, piece = layout.places[name]
        with in_memory(engine, number) as one:
            part.narrow(0, piece.start, piece.length).copy_(slice_of(one.flat, piece))
    elif name in layout.trained:
        return
    elif is_partitioned(engine):
        own = own_part(name, parameter)
        part.narrow(0, own.start, own.values.numel()).copy_(own.values)
    elif first:
        part.copy_(parameter.detach().reshape(-1))


def full_fp32_state(engine: Any) -> dict[str, Tensor] | None:
    """All weights and buffers on rank 0's CPU, None elsewhere.  Every rank must call it.

    Gathered one parameter at a time, so that no device holds more than the largest one besides its own state.

    Returns:
        stored name -> tensor: parameters in fp32 from the master weights, buffers as they are.
    """
    rank = dist.get_rank() if dist.is_initialized() else 0
    found = {}
    for name in layout_of(engine).parameters:
        value = master_values(engine, [name])[name]
        if rank == 0:
            found[name] = value.cpu()
    if rank:
        return None
    return found | {name: value.detach().cpu().clone() for name, value in buffers(engine.module).items()}
