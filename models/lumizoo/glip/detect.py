"""From predictions to boxes with a score and a class (card glip, Inference)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.ops import nms

from lumizoo.glip.anchors import anchors_of, decode
from lumizoo.glip.head import Predictions

LIMIT = 100


@dataclass(frozen=True)
class Rules:
    """What is left out.

    Args:
        least_score: of a class at a place, before centreness.
        most_of_level: pairs of place and class that a level keeps.
        overlap: with a better box of the class, above which a box is left out.
        limit: boxes of a picture; 300 for LVIS.
    """

    least_score: float = 0.05
    most_of_level: int = 1000
    overlap: float = 0.6
    limit: int = LIMIT


@dataclass(frozen=True)
class Detections:
    """Boxes of one picture, best first.

    Args:
        boxes: fp32 `(n, 4)`, x1, y1, x2, y2 in pixels, inclusive corners.
        scores: fp32 `(n,)` in [0, 1].
        labels: int64 `(n,)`, number of the class from 1 on.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def detections(found: Predictions, words: Tensor, size: tuple[int, int], rules: Rules) -> list[Detections]:
    """Boxes of pictures of one size, which were asked for the same classes.

    A class scores the mean over its tokens.  What is behind the threshold is weighed with centreness, cut to the best
    of each level, and freed from boxes that lie upon a better one of their class.

    Args:
        words: bool `(C, T)`, tokens of each class.
        size: height and width of the pictures in `found`'s pixels, without padding.
    """
    levels = anchors_of(found.sizes, found.boxes.device)
    return [_of_one(found, number, levels, words.float(), size, rules) for number in range(len(found.boxes))]


def _of_one(
    found: Predictions, number: int, levels: list[Tensor], words: Tensor, size: tuple[int, int], rules: Rules
) -> Detections:
    starts = torch.tensor([0] + [len(one) for one in levels]).cumsum(0).tolist()
    parts = []
    for anchors, start in zip(levels, starts, strict=False):
        here = slice(start, start + len(anchors))
        one = replace(
            found,
            alignment=found.alignment[number, here],
            centreness=found.centreness[number, here],
            boxes=found.boxes[number, here],
        )
        parts.append(_of_level(one, anchors, words, rules))
    boxes, scores, labels = (torch.cat(list(one)) for one in zip(*parts, strict=True))
    height, width = size
    boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]) - 1)
    return best(Detections(boxes, scores, labels), rules)


def _of_level(found: Predictions, anchors: Tensor, words: Tensor, rules: Rules) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and labels of one level of one picture, whose predictions are without the axis of pictures."""
    classes = found.alignment.sigmoid() @ words.T / words.sum(1).clamp(min=1)
    weighed = torch.where(classes > rules.least_score, classes * found.centreness.sigmoid()[:, None], -1.0).flatten()
    top = weighed.topk(min(rules.most_of_level, len(weighed)))
    kept = top.values >= 0
    place = top.indices[kept]
    at = place // len(words)
    return decode(found.boxes[at], anchors[at]), top.values[kept].sqrt(), place % len(words) + 1


def best(found: Detections, rules: Rules) -> Detections:
    """Without boxes that overlap a better one of their class, the best of the others."""
    edges = found.boxes + found.boxes.new_tensor([0, 0, 1, 1])  # the library's boxes have edges, ours their last pixel
    kept = [torch.zeros(0, dtype=torch.int64, device=edges.device)]
    for label in found.labels.unique():
        own = (found.labels == label).nonzero()[:, 0]
        kept.append(own[nms(edges[own], found.scores[own], rules.overlap)])
    chosen = torch.cat(kept)
    order = chosen[found.scores[chosen].argsort(descending=True, stable=True)[: rules.limit]]
    return Detections(found.boxes[order], found.scores[order], found.labels[order])


def merged(parts: list[Detections], limit: int) -> Detections:
    """The best of the boxes that several texts have found in one picture; each class is in one text alone."""
    if not parts:
        return Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    boxes, scores, labels = (torch.cat([getattr(one, name) for one in parts]) for name in ("boxes", "scores", "labels"))
    order = scores.argsort(descending=True, stable=True)[:limit]
    return Detections(boxes[order], scores[order], labels[order])
