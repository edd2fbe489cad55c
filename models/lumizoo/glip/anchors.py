"""Anchors, the code of a box against its anchor, and overlap, all with inclusive corners (card glip, Losses).

A box of width w has x2 = x1 + w - 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

STRIDES = (8, 16, 32, 64, 128)
SIDES = (64, 128, 256, 512, 1024)
WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the code: centre x and y, width and height
LARGEST_LOG = math.log(1000 / 16)


def level_sizes(height: int, width: int) -> tuple[tuple[int, int], ...]:
    """(h, w) of the five levels of a picture: sides divided by the strides and rounded up."""
    return tuple((-(-height // stride), -(-width // stride)) for stride in STRIDES)


def cell_anchors() -> list[Tensor]:
    """The anchor of each level's first cell, fp32 `(1, 4)`."""
    found = []
    for stride, side in zip(STRIDES, SIDES, strict=True):
        centre, half = (stride - 1) / 2, (side - 1) / 2
        found.append(torch.tensor([[centre - half, centre - half, centre + half, centre + half]]))
    return found


def anchors_of(sizes: Sequence[tuple[int, int]], device: torch.device | str) -> list[Tensor]:
    """One square for every cell, fp32 `(h * w, 4)` for each level, row by row.

    Args:
        sizes: (h, w) of the levels from fine to coarse.
    """
    found = []
    for (height, width), stride, first in zip(sizes, STRIDES, cell_anchors(), strict=True):
        down, across = (torch.arange(side, device=device, dtype=torch.float32) * stride for side in (height, width))
        y, x = torch.meshgrid(down, across, indexing="ij")
        found.append(torch.stack((x, y, x, y), -1).view(-1, 4) + first.to(device))
    return found


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2] + 1


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """The code of boxes `(..., 4)` against anchors of the same shape."""
    centre, size = _centre_and_size(boxes)
    anchor_centre, anchor_size = _centre_and_size(anchors)
    code = torch.cat(((centre - anchor_centre) / anchor_size, (size / anchor_size).log()), -1)
    return code * code.new_tensor(WEIGHTS)


def decode(code: Tensor, anchors: Tensor) -> Tensor:
    """Boxes `(..., 4)` of a code against anchors of the same shape."""
    code = code / code.new_tensor(WEIGHTS)
    anchor_centre, anchor_size = _centre_and_size(anchors)
    centre = anchor_centre + code[..., :2] * anchor_size
    size = anchor_size * code[..., 2:].clamp(max=LARGEST_LOG).exp()
    return torch.cat((centre - (size - 1) / 2, centre + (size - 1) / 2), -1)


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes `(..., 4)`, which are broadcast, to `(...)`; widths are x2 - x1 + 1."""
    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low + 1).clamp(min=0).prod(-1)
    areas = [(one[..., 2:] - one[..., :2] + 1).prod(-1) for one in (first, second)]
    return shared / (areas[0] + areas[1] - shared)
