"""Scores of overlapping patches, with the published tensor names `main.N` (card codeformer, Network)."""

from __future__ import annotations

import torch.nn.functional as functional
from torch import Tensor, nn

SLOPE = 0.2
WIDEST = 8  # times the width after the first convolution


class BatchNorm(nn.BatchNorm2d):
    """In fp32 whatever the weights have: running statistics are kept in it."""

    def forward(self, features: Tensor) -> Tensor:
        """`(B, C, H, W)` to the same, by the statistics of the batch in training."""
        if self.training:
            self.num_batches_tracked.add_(1)
        normal = functional.batch_norm(
            features.float(),
            self.running_mean,
            self.running_var,
            self.weight.float(),
            self.bias.float(),
            self.training,
            self.momentum,
            self.eps,
        )
        return normal.to(features.dtype)


class Discriminator(nn.Module):
    """PatchGAN: pictures in [-1, 1] `(B, 3, H, W)` to scores `(B, 1, H / 16 - 2, W / 16 - 2)`, high for real ones.

    Args:
        channels: width after the first convolution.
        layers: convolutions with a norm; all but the last of them halve the size, as the first convolution does.
    """

    def __init__(self, channels: int, layers: int = 4) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(3, channels, 4, 2, 1), nn.LeakyReLU(SLOPE)]
        inputs = channels
        for number in range(1, layers + 1):
            outputs = channels * min(2**number, WIDEST)
            parts += [nn.Conv2d(inputs, outputs, 4, 1 if number == layers else 2, 1, bias=False), BatchNorm(outputs)]
            parts += [nn.LeakyReLU(SLOPE)]
            inputs = outputs
        parts += [nn.Conv2d(inputs, 1, 4, 1, 1)]
        self.main = nn.Sequential(*parts)

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores in fp32."""
        return self.main(pictures.to(self.main[0].weight.dtype)).float()
