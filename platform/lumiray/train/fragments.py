"""The fp32 master state of a DeepSpeed engine, as slices of named parameters that this rank holds.

Master weights are the truth of a run: checkpoints, clamps, averages and exports read and write them here, with the
same code for every ZeRO stage and precision.  Slices travel without communication, so nothing can hang when one rank
holds no part of a parameter.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lumiray.errors import RunFailure
from lumiray.train.average import AVERAGE, average_of
from lumiray.train.clamp import clamp
from lumiray.train.frozen import buffer_state, frozen_state, load_frozen_state
from lumiray.train.gather import full_fp32_state, master_values
from lumiray.train.layout import (
    Partition,
    base_optimizer,
    in_memory,
    is_replicated,
    is_swapped,
    layout_of,
    rewriting,
    slice_of,
)
from lumiray.train.slices import MASTER, Fragment, Lookup, share


def local_fragments(engine: Any) -> list[Fragment]:
    """All master state that this rank holds; whole parameters on every rank under stage 0."""
    found = []
    for number in range(len(layout_of(engine).partitions)):
        with in_memory(engine, number) as one, torch.no_grad():
            found += _fragments(engine, number, one, copy=is_swapped(engine, number))
    return found


def owned_fragments(engine: Any) -> list[Fragment]:
    """The master state that this rank is to write: over all ranks every element occurs once."""
    found = local_fragments(engine)
    if is_replicated(engine) and dist.is_initialized():
        return share(found, dist.get_rank(), dist.get_world_size())
    return found


def _fragments(engine: Any, number: int, one: Partition, copy: bool) -> list[Fragment]:
    step = base_optimizer(engine).state.get(one.flat, {}).get("step")
    moments = _moments(engine, one) | _average(engine, number)
    found = []
    for piece in one.pieces:
        values = {key: slice_of(flat, piece) for key, flat in {MASTER: one.flat, **moments}.items()}
        if copy:
            values = {key: value.clone() for key, value in values.items()}
        master = values.pop(MASTER)
        steps = None if step is None else int(step)
        found.append(Fragment(piece.name, piece.shape, piece.start, master, values, steps))
    return found


def _moments(engine: Any, one: Partition) -> dict[str, Tensor]:
    """Tensors that the optimizer keeps per element; there are none before its first step."""
    state = base_optimizer(engine).state.get(one.flat, {})
    found = {}
    for key, value in state.items():
        if key != "step" and isinstance(value, Tensor) and value.shape == one.flat.shape:
            if not value.is_contiguous():  # channels_last, as in the layout
                value.data = value.data.contiguous()
            found[key] = value
    return found


def _average(engine: Any, number: int) -> dict[str, Tensor]:
    """The averaged weights of a partition, where they are averaged: they travel like a moment."""
    found = average_of(engine)
    return {} if found is None else {AVERAGE: found[number]}


def kept_moments(engine: Any) -> frozenset[str]:
    """Keys of the moments that this engine's optimizer keeps per element once it has stepped."""
    defaults = base_optimizer(engine).defaults
    if "betas" in defaults:
        extra = {"max_exp_avg_sq"} if defaults.get("amsgrad") else set()
        return frozenset({"exp_avg", "exp_avg_sq"} | extra)
    return frozenset({"momentum_buffer"} if defaults.get("momentum") else ())


def load_fragments(engine: Any, lookup: Lookup) -> None:
    """Write master values, moments and step counts, then the working weights.  Every rank must call it.

    Raises:
        RunFailure: the saved moments are those of another kind of optimizer (before anything is written).
    """
    layout, wanted = layout_of(engine), kept_moments(engine)
    for name in sorted(layout.trained):
        saved = lookup.moments(name)
        if (AVERAGE in saved) != (average_of(engine) is not None):
            raise RunFailure(
                f"The checkpoint holds {'an' if AVERAGE in saved else 'no'} average of {name}, and this run keeps "
                f"{'none' if AVERAGE in saved else 'one'}: continue with the settings it was trained with."
            )
        saved -= {AVERAGE}
        if saved and saved != wanted:
            raise RunFailure(
                f"The checkpoint holds {', '.join(sorted(saved))} of {name}, but this run's optimizer keeps "
                f"{', '.join(sorted(wanted)) or 'no moments'}: continue with the optimizer it was trained with."
            )
    with torch.no_grad(), rewriting(engine):
        for number in range(len(layout.partitions)):
            with in_memory(engine, number, write=True) as one:
                _load_partition(engine, number, one, lookup)


def _load_partition(engine: Any, number: int, one: Partition, lookup: Lookup) -> None:
    for key, flat in {MASTER: one.flat, **_average(engine, number)}.items():
        for piece in one.pieces:
            slice_of(flat, piece).copy_(lookup.values(piece.name, key, piece.start, piece.length))
    saved = frozenset().union(*(lookup.moments(name) for name in one.names)) - {AVERAGE}
    state = base_optimizer(engine).state
    if not saved and one.flat not in state:
        return
    moments = _moments(engine, one)
    for key in saved - moments.keys():
        moments[key] = state[one.flat][key] = torch.zeros_like(one.flat.detach())
    for key, flat in moments.items():
        for piece in one.pieces:
            if key in lookup.moments(piece.name):
                slice_of(flat, piece).copy_(lookup.values(piece.name, key, piece.start, piece.length))
            else:
                slice_of(flat, piece).zero_()  # a parameter that had no gradient yet
    steps = (lookup.step(name) for name in one.names)
    _set_step(engine, one, max((step for step in steps if step is not None), default=0))


def _set_step(engine: Any, one: Partition, step: int) -> None:
    """Write the count of steps in the form that the optimizer itself would have made."""
    base = base_optimizer(engine)
    if "betas" not in base.defaults:
        return
    state, group = base.state[one.flat], base.param_groups[one.group]
    if isinstance(state.get("step"), Tensor):
        state["step"].fill_(step)
    elif isinstance(base, (torch.optim.Adam, torch.optim.AdamW)):
        on_device = group.get("fused") or group.get("capturable")
        device = one.flat.device if on_device else "cpu"
        state["step"] = torch.tensor(float(step), dtype=torch.float32, device=device)
    else:
        state["step"] = step  # DeepSpeedCPUAdam counts in plain integers


def start_fresh(engine: Any) -> None:
    """Undo the step that DeepSpeed takes while it builds a 16-bit engine of stage 0.

    With gradients of zero it decays the weights once and leaves a step count of 1, so stage 0 would train
    differently from the other stages.  To be called right after `deepspeed.initialize`.
    """
    outer = engine.optimizer
    if type(outer).__name__ == "FP16_UnfusedOptimizer":
        outer.optimizer.state.clear()
        outer.refresh_fp32_params()


__all__ = [
    "Fragment",
    "Lookup",
    "buffer_state",
    "clamp",
    "frozen_state",
    "full_fp32_state",
    "kept_moments",
    "load_fragments",
    "load_frozen_state",
    "local_fragments",
    "master_values",
    "owned_fragments",
    "start_fresh",
]
