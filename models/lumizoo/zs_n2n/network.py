"""The network that predicts a picture's noise: three convolutions, 22,275 weights for RGB (card zs-n2n, Network)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class NoiseNetwork(nn.Module):
    """Two 3 x 3 convolutions with LeakyReLU and one of 1 x 1; or `copies` of them side by side.

    Copies know nothing of each other: they are the groups of the same convolutions, copy k owns the k-th part of
    every tensor's first axis.  One copy has the published tensor names and shapes.

    Args:
        channels: C of a picture, 3 or 1 in published use.
        width: channels between the convolutions.
        slope: of the LeakyReLU below 0.
        copies: N networks, each for a picture of its own.
    """

    def __init__(self, channels: int = 3, width: int = 48, slope: float = 0.2, copies: int = 1) -> None:
        super().__init__()
        self.channels, self.copies = channels, copies
        self.conv1 = nn.Conv2d(copies * channels, copies * width, 3, padding=1, groups=copies)
        self.conv2 = nn.Conv2d(copies * width, copies * width, 3, padding=1, groups=copies)
        self.conv3 = nn.Conv2d(copies * width, copies * channels, 1, groups=copies)
        # in place: each map is kept once for the backward pass, not twice; maps are nearly all memory of a fit
        self.activation = nn.LeakyReLU(slope, inplace=True)

    def forward(self, pictures: Tensor) -> Tensor:
        """The noise in pictures.

        Args:
            pictures: (B, N * C, H, W), in [0, 1] but for the noise; N is 1 unless there are copies.

        Returns:
            (B, N * C, H, W), around 0, unbounded.
        """
        hidden = self.activation(self.conv1(pictures))
        return self.conv3(self.activation(self.conv2(hidden)))

    def draw(self, seed: int) -> None:
        """Fresh weights: uniform in +-1 / sqrt(fan_in), torch's default for convolutions, all copies alike.

        Only the seed decides, not torch's global generator: so a picture fitted beside others gets the weights that
        it would get alone.
        """
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for convolution in (self.conv1, self.conv2, self.conv3):
                bound = 1 / math.sqrt(math.prod(convolution.weight.shape[1:]))
                for tensor in (convolution.weight, convolution.bias):
                    first = tensor.new_empty((len(tensor) // self.copies, *tensor.shape[1:]), device="cpu")
                    first.uniform_(-bound, bound, generator=generator)
                    tensor.copy_(first.repeat(self.copies, *[1] * (tensor.ndim - 1)))

    def copy_of(self, tensors: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        """One network's part of a state dict, under the published names and shapes: (48, C, 3, 3), (48,), ..."""
        return {name: value.unflatten(0, (self.copies, -1))[number].clone() for name, value in tensors.items()}
