"""What encoder and generator are made of, named as in the published checkpoints (card codeformer, Network)."""

from __future__ import annotations

import torch.nn.functional as functional
from torch import Tensor, nn

from lumizoo.codeformer.config import GROUPS


def convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """3x3 at the same size."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def group_norm(channels: int) -> nn.GroupNorm:
    """The norm that is used everywhere."""
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


class ResBlock(nn.Module):
    """Two convolutions, each after norm and swish, added to the input: `(B, inputs, H, W)` to `(B, outputs, H, W)`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = group_norm(inputs)
        self.conv1 = convolution(inputs, outputs)
        self.norm2 = group_norm(outputs)
        self.conv2 = convolution(outputs, outputs)
        self.conv_out = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """The sum of both ways."""
        hidden = self.conv1(functional.silu(self.norm1(features)))
        hidden = self.conv2(functional.silu(self.norm2(hidden)))
        return self.conv_out(features) + hidden


class AttnBlock(nn.Module):
    """Attention of one head between all positions, added to the input, `(B, C, H, W)`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, features: Tensor) -> Tensor:
        """The same shape."""
        normal = self.norm(features)
        query, key, value = (one(normal).flatten(2).transpose(1, 2) for one in (self.q, self.k, self.v))
        found = functional.scaled_dot_product_attention(query, key, value)
        return features + self.proj_out(found.transpose(1, 2).reshape(features.shape))


class Downsample(nn.Module):
    """`(B, C, H, W)` to `(B, C, H // 2, W // 2)`; zeros are added at the right and the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, features: Tensor) -> Tensor:
        """Half the size."""
        return self.conv(functional.pad(features, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """`(B, C, H, W)` to `(B, C, 2H, 2W)`: pixels are repeated, then convolved."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = convolution(channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        """Twice the size."""
        return self.conv(functional.interpolate(features, scale_factor=2.0, mode="nearest"))
