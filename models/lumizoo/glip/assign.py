"""Which anchors answer for which box: ATSS (card glip, Losses)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lumizoo.glip.anchors import overlap

NEAREST = 9
INSIDE = 0.01  # pixels by which an anchor's centre must lie within its box


def assign(levels: Sequence[Tensor], boxes: Tensor, counts: Tensor, nearest: int = NEAREST) -> Tensor:
    """The number of the box that each anchor answers for, or -1; int64 `(B, A)`.

    Only overlaps of candidates are computed, and nothing depends on values but the result: no wait for the GPU.

    Args:
        levels: anchors `(A_l, 4)` of each level, fp32.
        boxes: fp32 `(B, N, 4)`, N at least 1; rows from `counts` on are padding.
        counts: boxes of each picture, integers `(B,)`.
        nearest: candidates of a level for each box.
    """
    anchors = torch.cat(list(levels))
    candidates = _candidates(levels, boxes, nearest)  # (B, N, K)
    near = anchors[candidates]
    found = overlap(near, boxes[:, :, None])
    least = found.mean(-1, keepdim=True) + found.std(-1, keepdim=True)
    centre = (near[..., :2] + near[..., 2:]) / 2
    margins = torch.cat((centre - boxes[:, :, None, :2], boxes[:, :, None, 2:] - centre), -1)
    number = torch.arange(boxes.shape[1], device=boxes.device)
    real = number < counts[:, None]
    positive = (found >= least) & (margins.amin(-1) > INSIDE) & real[:, :, None]
    return _first_of_the_best(candidates, torch.where(positive, found, -1.0), number, len(anchors))


def _candidates(levels: Sequence[Tensor], boxes: Tensor, nearest: int) -> Tensor:
    """Numbers of the anchors whose centres are nearest to that of each box, some of every level; `(B, N, K)`."""
    across, down = ((boxes[..., :2] + boxes[..., 2:]) / 2).unbind(-1)
    chosen, start = [], 0
    for level in levels:
        x, y = ((level[:, :2] + level[:, 2:]) / 2).unbind(-1)
        distance = ((across[..., None] - x).square() + (down[..., None] - y).square()).sqrt()
        chosen.append(distance.topk(min(nearest, len(level)), largest=False).indices + start)
        start += len(level)
    return torch.cat(chosen, -1)


def _first_of_the_best(candidates: Tensor, found: Tensor, number: Tensor, anchors: int) -> Tensor:
    """For each anchor the box with the highest overlap, of several the first; -1 where there is none above 0."""
    count = len(candidates)
    place, value = candidates.flatten(1), found.flatten(1)
    best = value.new_full((count, anchors), -1.0).scatter_reduce(1, place, value, "amax")
    owner = number[:, None].expand(candidates.shape[1:]).flatten().expand(count, -1)
    nobody = len(number)
    wins = (value >= 0) & (value == best.gather(1, place))
    first = number.new_full((count, anchors), nobody)
    first = first.scatter_reduce(1, place, torch.where(wins, owner, nobody), "amin")
    return torch.where(first == nobody, -1, first)
