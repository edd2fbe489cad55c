"""Five maps of one width, strides 8 to 128, from three of Swin (card glip, Network: FPN)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as functional
from torch import Tensor, nn


class TopBlocks(nn.Module):
    """Two coarser levels from the coarsest one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, coarsest: Tensor) -> list[Tensor]:
        """P5 `(B, C, h, w)` to P6 and P7, each of half the sides, rounded up."""
        sixth = self.p6(coarsest)
        return [sixth, self.p7(functional.relu(sixth))]


class Pyramid(nn.Module):
    """Sums from coarse to fine, without norm or activation.

    Args:
        widths: channels of the three maps; they are numbered from 2, as stages of Swin are.
    """

    def __init__(self, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        self.numbers = range(2, 2 + len(widths))
        for number, width in zip(self.numbers, widths, strict=True):
            self.add_module(f"fpn_inner{number}", nn.Conv2d(width, channels, 1))
            self.add_module(f"fpn_layer{number}", nn.Conv2d(channels, channels, 3, padding=1))
        self.top_blocks = TopBlocks(channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps from fine to coarse, each `(B, C_i, h_i, w_i)`, to levels P3 to P7, each `(B, C, h, w)`."""
        levels: list[Tensor] = []
        last: Tensor | None = None
        for number, one in reversed(list(zip(self.numbers, maps, strict=True))):
            inner = self.get_submodule(f"fpn_inner{number}")(one)
            if last is not None:
                inner = inner + functional.interpolate(last, size=inner.shape[2:], mode="nearest")
            last = inner
            levels.insert(0, self.get_submodule(f"fpn_layer{number}")(last))
        return levels + self.top_blocks(levels[-1])
