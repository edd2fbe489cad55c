"""The block that lets neighbouring levels of the pyramid speak to each other (card glip, Network: DyConv block)."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from lumizoo.glip.deformable import TAPS, deformable_conv

UPPER, OWN, LOWER = 0, 1, 2  # branches, in the order of the checkpoints
REDUCTION = 4  # of the layer that steers the dynamic ReLU


def hard_sigmoid(values: Tensor) -> Tensor:
    """ReLU6(x + 3) / 6."""
    return functional.relu6(values + 3) / 6


class ModulatedConv(nn.Module):
    """A deformable 3 x 3 convolution whose taps have factors, computed in fp32."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        bound = (TAPS * channels) ** -0.5
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, level: Tensor, offset: Tensor, factor: Tensor) -> Tensor:
        """`(B, C, H, W)` to fp32 `(B, C, h, w)`.

        Args:
            offset: fp32 `(B, 18, h, w)`, (y, x) for every tap.
            factor: fp32 `(B, 9, h, w)` in [0, 1].
        """
        weight, bias = self.weight.float(), self.bias.float()
        return deformable_conv(level.float(), offset, factor, weight, bias, self.stride)


class Branch(nn.Module):
    """A modulated convolution and its norm."""

    def __init__(self, channels: int, groups: int, stride: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(channels, stride)
        self.bn = nn.GroupNorm(groups, channels)

    def forward(self, level: Tensor, offset: Tensor, factor: Tensor) -> Tensor:
        """See `ModulatedConv`; the result has the dtype of `level`."""
        return self.bn(self.conv(level, offset, factor).to(level.dtype))


def reread(values: Tensor, size: torch.Size) -> Tensor:
    """The memory of `(B, C, H, W)`, picture by picture, taken as if it held maps of a smaller size `(h, w)`.

    The published kernel reads the offsets of the larger level so when it runs on the smaller one, and its weights were
    trained with that.
    """
    count, channels = values.shape[:2]
    height, width = size
    return values.flatten(1)[:, : channels * height * width].reshape(count, channels, height, width)


class DynamicRelu(nn.Module):
    """The larger of two lines, whose slopes and heights follow from the whole map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // REDUCTION), nn.ReLU(), nn.Linear(channels // REDUCTION, 4 * channels)
        )

    def forward(self, level: Tensor) -> Tensor:
        """`(B, C, H, W)` to the same shape."""
        steer = hard_sigmoid(self.fc(level.mean((2, 3))))[..., None, None] - 0.5
        slope1, height1, slope2, height2 = steer.chunk(4, 1)
        return torch.maximum(level * (2 * slope1 + 1) + height1, level * (2 * slope2) + height2)


class DynamicConv(nn.Module):
    """Every level from itself and its neighbours, weighted by what each of them shows."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.DyConv = nn.ModuleList(Branch(channels, groups, stride) for stride in (1, 1, 2))
        self.AttnConv = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 1, 1), nn.ReLU())
        nn.init.normal_(self.AttnConv[1].weight, std=0.01)
        nn.init.zeros_(self.AttnConv[1].bias)
        self.relu = DynamicRelu(channels)
        self.offset = nn.Conv2d(channels, 3 * TAPS, 3, padding=1)

    def forward(self, *levels: Tensor) -> tuple[Tensor, ...]:
        """Levels from fine to coarse, each `(B, C, h, w)`, to the same shapes."""
        found = []
        for number, level in enumerate(levels):
            steer = self.offset(level).float()
            offset, factor = steer[:, : 2 * TAPS], steer[:, 2 * TAPS :].sigmoid()
            branches = [self.DyConv[OWN](level, offset, factor)]
            if number > 0:
                branches.append(self.DyConv[LOWER](levels[number - 1], offset, factor))
            if number + 1 < len(levels):
                upper = levels[number + 1]
                size = upper.shape[2:]
                grown = self.DyConv[UPPER](upper, reread(offset, size), reread(factor, size))
                branches.append(
                    functional.interpolate(grown, size=level.shape[2:], mode="bilinear", align_corners=True)
                )
            weighted = [one * hard_sigmoid(self.AttnConv(one)) for one in branches]
            found.append(self.relu(torch.stack(weighted).mean(0)))
        return tuple(found)
