"""Keep stored values in their bounds, where it counts.

Clamping the working weight alone is undone at the next step, for the fp32 master still holds the old value; clamping
the master alone trains one step on the old value.  Both are clamped here, each rank what it holds, without any
communication: rounding to 16 bit keeps the order of numbers, so clamping the rounded weight to the rounded bound
gives exactly the rounded master.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lumiray.errors import UserError, near
from lumiray.train.layout import in_memory, layout_of, slice_of


def clamp(engine: Any, bounds: Mapping[str, tuple[float, float]]) -> None:
    """Clamp stored parameters, in the fp32 master and in the working weight.

    Args:
        bounds: stored parameter name -> (low, high), in the stored unit (a logarithm stays a logarithm).

    Raises:
        UserError: the networks have no parameter of that name.
    """
    layout = layout_of(engine)
    with torch.no_grad():
        for name, (low, high) in bounds.items():
            if name not in layout.parameters:
                raise UserError(f"There is no parameter {name!r} to clamp.{near(name, layout.parameters)}")
            if name in layout.places:
                number, piece = layout.places[name]
                with in_memory(engine, number, write=True) as one:
                    slice_of(one.flat, piece).clamp_(low, high)
            for working in _held(layout.parameters[name]):
                _clamp_rounded(working, low, high)


def _held(parameter: nn.Parameter) -> list[Tensor]:
    """The working tensors that this rank holds of a parameter: under ZeRO 3 its part, and a gathered copy if any."""
    if not hasattr(parameter, "ds_tensor"):
        return [parameter.data]
    gathered = [parameter.data] if parameter.data.numel() == parameter.ds_numel else []
    return [parameter.ds_tensor.data, *gathered]


def _clamp_rounded(working: Tensor, low: float, high: float) -> None:
    bounds = torch.tensor([low, high], dtype=torch.float32).to(working.dtype).tolist()
    working.clamp_(*bounds)
