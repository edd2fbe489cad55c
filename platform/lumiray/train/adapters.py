"""Low-rank adapters: a trained product of two thin matrices beside a frozen weight (LoRA, arXiv 2106.09685).

They are added to linear layers and convolutions as they stand, whatever system these belong to: `x.weight` keeps its
name and its values, `x.adapter_down` and `x.adapter_up` come beside it.  What is exported, evaluated elsewhere or
handed to a next stage has them added in, under the names that it had without them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

DOWN, UP, SCALE = "adapter_down", "adapter_up", "adapter_scale"


class AdaptedLinear(nn.Linear):
    """A linear layer with adapters."""

    adapter_down: nn.Parameter
    adapter_up: nn.Parameter
    adapter_scale: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`; the product is never formed."""
        added = functional.linear(functional.linear(input, self.adapter_down), self.adapter_up)
        return super().forward(input) + self.adapter_scale.to(added.dtype) * added


class AdaptedConv2d(nn.Conv2d):
    """A convolution with adapters, of any stride, padding and number of groups."""

    adapter_down: nn.Parameter
    adapter_up: nn.Parameter
    adapter_scale: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """`(B, in, H, W)` to `(B, out, h, w)`; the product is small beside the maps, and is added to the weight."""
        added = added_to(self.adapter_down, self.adapter_up, self.adapter_scale).view(self.weight.shape)
        return self._conv_forward(input, self.weight + added.to(self.weight.dtype), self.bias)


# exactly these classes: a subclass may read its weight in another way, as nn.MultiheadAttention does, past any forward
KINDS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: AdaptedLinear, nn.Conv2d: AdaptedConv2d}


def adaptable(module: nn.Module) -> bool:
    """Whether a layer can have adapters."""
    return type(module) in KINDS


def adapt(layer: nn.Module, rank: int, alpha: float) -> None:
    """Add adapters to a layer, which computes the same as before until they are trained, and freeze what it had.

    Args:
        rank: of the product, lowered to the weight's own where that is smaller.
        alpha: the product counts alpha / rank.
    """
    weight = layer.get_parameter("weight")
    outputs, inputs = weight.shape[0], weight[0].numel()
    rank = min(rank, outputs, inputs)
    layer.requires_grad_(False)
    layer.__class__ = KINDS[type(layer)]
    down = torch.empty(rank, inputs, dtype=weight.dtype, device=weight.device)
    nn.init.kaiming_uniform_(down, a=math.sqrt(5))
    layer.register_parameter(DOWN, nn.Parameter(down))
    layer.register_parameter(UP, nn.Parameter(torch.zeros(outputs, rank, dtype=weight.dtype, device=weight.device)))
    layer.register_buffer(SCALE, torch.tensor(alpha / rank, device=weight.device))


def added_to(down: Tensor, up: Tensor, scale: Tensor) -> Tensor:
    """What adapters add to a weight, `(out, inputs of one output)`."""
    return scale.to(up.dtype) * (up @ down)


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with their adapters added in, under the names that they had without any."""
    found = {name: value for name, value in state.items() if name.rpartition(".")[2] not in (DOWN, UP, SCALE)}
    for name, up in state.items():
        layer, _, last = name.rpartition(".")
        if last == UP:
            weight = found[f"{layer}.weight"]
            added = added_to(state[f"{layer}.{DOWN}"], up, state[f"{layer}.{SCALE}"])
            found[f"{layer}.weight"] = weight + added.view(weight.shape)
    return found
