"""The enhancer: a plain chain of convolutions from a picture to its light map (card clip-lit, Network: enhancer).

Attributes have the names of the published checkpoints.  Training pads four of the convolutions with zeros and
inference reflects there, with the same weights: with zeros the outermost rows come out too bright.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

WIDTH = 32
BINS = (1, 2, 3, 6)  # sides of the grids that pyramid pooling averages over
SLOPE = 0.2
EPS = 1e-9  # of the published training; its inference has none
STD = 0.02  # of every convolution's weight at the start


class PlainConvolution(nn.Conv2d):
    """3x3 whose border is zero or reflected, by call."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3)

    def forward(self, features: Tensor, reflect: bool = False) -> Tensor:
        """`(B, inputs, H, W)` to `(B, outputs, H, W)`."""
        return super().forward(functional.pad(features, [1] * 4, mode="reflect" if reflect else "constant"))


class ResidualBlock(nn.Module):
    """Two reflected 3x3 convolutions that add to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect", bias=False) for _ in range(2)
        )

    def forward(self, features: Tensor) -> Tensor:
        """`(B, C, H, W)` to the same shape; H and W are at least 2."""
        changed = self.conv2(functional.leaky_relu(self.conv1(features), SLOPE))
        return functional.leaky_relu(features + changed, SLOPE)


class PyramidPooling(nn.Module):
    """Means over coarse grids of the whole picture, brought back to full size and joined with the features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        each = channels // len(BINS)
        self.features = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), nn.Conv2d(channels, each, 1, bias=False), nn.PReLU())
            for bins in BINS
        )
        self.fuse = nn.Sequential(nn.Conv2d(2 * channels, channels, 3, padding=1, bias=False), nn.PReLU())

    def forward(self, features: Tensor) -> Tensor:
        """`(B, C, H, W)` to the same shape; every pixel of the picture takes part in each value."""
        size = features.shape[2:]
        pooled = [
            functional.interpolate(branch(features), size, mode="bilinear", align_corners=True)
            for branch in self.features
        ]
        return self.fuse(torch.cat((features, *pooled), 1))


class Enhancer(nn.Module):
    """RGB in [0, 1] `(B, 3, H, W)` to a light map `(B, 1, H, W)`, at least 0 and not bounded above."""

    def __init__(self) -> None:
        super().__init__()
        self.cond1 = PlainConvolution(3, WIDTH)
        self.ResidualBlock1, self.ResidualBlock2 = ResidualBlock(WIDTH), ResidualBlock(WIDTH)
        self.PPM1 = PyramidPooling(WIDTH)
        self.condx = PlainConvolution(WIDTH, 2 * WIDTH)
        self.ResidualBlock3, self.ResidualBlock4 = ResidualBlock(2 * WIDTH), ResidualBlock(2 * WIDTH)
        self.condy = PlainConvolution(2 * WIDTH, WIDTH)
        self.ResidualBlock5, self.ResidualBlock6 = ResidualBlock(WIDTH), ResidualBlock(WIDTH)
        self.cond_add1 = PlainConvolution(WIDTH, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, STD)

    def forward(self, pictures: Tensor, reflect: bool = False) -> Tensor:
        """The light map, in the pictures' dtype.

        Args:
            reflect: pad as in inference.
        """
        start = pictures.to(self.cond1.weight.dtype)
        hidden = functional.leaky_relu(self.cond1(start, reflect), SLOPE)
        hidden = self.PPM1(self.ResidualBlock2(self.ResidualBlock1(hidden)))
        hidden = self.condx(hidden, reflect)
        hidden = self.condy(self.ResidualBlock4(self.ResidualBlock3(hidden)), reflect)
        hidden = self.ResidualBlock6(self.ResidualBlock5(hidden))
        return self.cond_add1(hidden, reflect).relu().to(pictures.dtype)


def enhanced_in_training(enhancer: nn.Module, pictures: Tensor) -> Tensor:
    """RGB in [0, 1] `(B, 3, H, W)` over its light map, clamped to [0, 1]."""
    return (pictures / (enhancer(pictures) + EPS)).clamp(0, 1)


def enhanced_in_use(enhancer: nn.Module, pictures: Tensor) -> Tensor:
    """The same at inference: reflected borders, and no small number (card clip-lit, Inference).

    Where the light map is 0, a channel becomes white, as published, and black stays black, where published code
    divides 0 by 0.  A picture of one row or column, which nothing can be reflected in, is taken twice.
    """
    height, width = pictures.shape[2:]
    wide = pictures.expand(-1, -1, max(height, 2), max(width, 2))
    bright = (wide / enhancer(wide, reflect=True)).nan_to_num(nan=0.0, posinf=1.0)
    return bright[..., :height, :width].clamp(0, 1)
