"""The modulated deformable 3 x 3 convolution (card glip, Network: DyConv block)."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor
from torchvision.ops import deform_conv2d

TAPS = 9  # of a 3 x 3 kernel


def deformable_conv(level: Tensor, offset: Tensor, factor: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """A 3 x 3 convolution, padded by 1, whose taps are moved and weighted anew at each place; all in fp32.

    torchvision computes it, but not on a CPU: its gradient runs on one core there and was two thirds of a step of a
    small GLIP.  The same sum by way of `grid_sample` takes a quarter of that or less.

    Args:
        level: `(B, C, H, W)`.
        offset: `(B, 18, h, w)`, (y, x) in pixels for every tap.
        factor: `(B, 9, h, w)`.
        weight: `(D, C, 3, 3)`.
        bias: `(D,)`.

    Returns:
        `(B, D, h, w)`, `h = (H - 1) // stride + 1`.
    """
    if level.device.type == "cpu":
        return sampled_conv(level, offset, factor, weight, bias, stride)
    return deform_conv2d(level, offset, weight, bias, stride, padding=1, mask=factor)


def sampled_conv(level: Tensor, offset: Tensor, factor: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """See `deformable_conv`: every tap's picture is sampled, and the taps of all channels are summed at once."""
    height, width = level.shape[2:]
    down, across = ((side - 1) // stride + 1 for side in (height, width))
    rows = torch.arange(down, device=level.device, dtype=level.dtype) * stride - 1
    columns = torch.arange(across, device=level.device, dtype=level.dtype) * stride - 1
    tap = torch.arange(TAPS, device=level.device)
    moved = offset.unflatten(1, (TAPS, 2))
    y = moved[:, :, 0] + rows[:, None] + (tap // 3)[:, None, None]
    x = moved[:, :, 1] + columns + (tap % 3)[:, None, None]
    # -1 and 1 are the outer edges of the first and the last pixel
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1).flatten(1, 2)
    taps = functional.grid_sample(level, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    taps = taps.unflatten(2, (TAPS, down)) * factor[:, None]
    summed = weight.flatten(1) @ taps.flatten(3).flatten(1, 2)
    return summed.unflatten(2, (down, across)) + bias[:, None, None]
