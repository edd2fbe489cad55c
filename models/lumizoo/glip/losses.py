"""Alignment, box and centreness, each as a sum over this micro-batch and its count (card glip, Losses).

Counts are those of the whole global batch: `Scope.GLOBAL`.  The published code divides by a mean over processes and
then averages gradients over processes, which is the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from lumiray.system import Scope, Term
from lumizoo.glip.anchors import anchors_of, decode
from lumizoo.glip.assign import NEAREST, assign
from lumizoo.glip.head import Predictions

ALPHA, GAMMA = 0.25, 2.0
BOX_WEIGHT = 2.0
EPS = 1e-7


@dataclass(frozen=True)
class Targets:
    """What a micro-batch should have been told.

    Args:
        boxes: fp32 `(B, N, 4)`, inclusive corners in pixels; rows from `counts` on are padding.
        counts: integers `(B,)`.
        words: bool `(B, N, T)`: which tokens name each box.
        mask: bool `(B, T)`, true for tokens that are no padding.
    """

    boxes: Tensor
    counts: Tensor
    words: Tensor
    mask: Tensor


@dataclass(frozen=True)
class AnchorTargets:
    """The same by anchors, A of all levels.

    Args:
        anchors: `(A, 4)`.
        owner: number of each anchor's box or -1, int64 `(B, A)`.
        boxes: that box, and the anchor itself where there is none, `(B, A, 4)`.
        words: fp32 0 or 1, `(B, A, T)`.
    """

    anchors: Tensor
    owner: Tensor
    boxes: Tensor
    words: Tensor


def anchor_targets(sizes: tuple[tuple[int, int], ...], targets: Targets, nearest: int = NEAREST) -> AnchorTargets:
    """Boxes and words that each anchor should answer with.

    An anchor without a box has the last token as its target: a remnant that is masked wherever the text is shorter.
    """
    levels = anchors_of(sizes, targets.boxes.device)
    owner = assign(levels, targets.boxes, targets.counts, nearest)
    anchors = torch.cat(levels)
    at = owner.clamp(min=0)[..., None]
    boxes = targets.boxes.gather(1, at.expand(-1, -1, 4))
    boxes = torch.where(owner[..., None] >= 0, boxes, anchors)
    words = targets.words.float().gather(1, at.expand(-1, -1, targets.words.shape[2]))
    nothing = torch.zeros_like(words[0, 0])
    nothing[-1] = 1
    return AnchorTargets(anchors, owner, boxes, torch.where(owner[..., None] >= 0, words, nothing))


def centreness(boxes: Tensor, anchors: Tensor) -> Tensor:
    """How central anchors lie in boxes `(..., 4)`: 1 in the middle, 0 on an edge and outside."""
    centre = (anchors[..., :2] + anchors[..., 2:]) / 2
    low, high = centre - boxes[..., :2], boxes[..., 2:] - centre
    ratio = torch.minimum(low, high).clamp(min=0) / torch.maximum(low, high).clamp(min=EPS)
    return ratio.prod(-1).sqrt()


def generalised_iou_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """1 - GIoU of boxes `(..., 4)`; areas are those of the corners, without the pixel that inclusive ones lack."""
    found = torch.cat((found[..., :2], torch.maximum(found[..., :2], found[..., 2:])), -1)
    low, high = torch.maximum(found[..., :2], wanted[..., :2]), torch.minimum(found[..., 2:], wanted[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = [(one[..., 2:] - one[..., :2]).prod(-1) for one in (found, wanted)]
    union = areas[0] + areas[1] - shared + EPS
    outer = torch.maximum(found[..., 2:], wanted[..., 2:]) - torch.minimum(found[..., :2], wanted[..., :2])
    around = outer.prod(-1) + EPS
    return 1 - shared / union + (around - union) / around


def positives(wanted: AnchorTargets) -> tuple[Tensor, Tensor]:
    """How many anchors have a box, a scalar, and how central each of them lies, fp32 `(B, A)`, else 0."""
    central = centreness(wanted.boxes, wanted.anchors)
    return (wanted.owner >= 0).sum(), torch.where(wanted.owner >= 0, central, 0.0)


def term_counts(sizes: tuple[tuple[int, int], ...], targets: Targets) -> dict[str, Tensor]:
    """The counts of `grounding_terms`, without predictions."""
    count, central = positives(anchor_targets(sizes, targets))
    return {"alignment": count, "box": central.sum(), "centreness": count}


def grounding_terms(found: Predictions, targets: Targets) -> dict[str, Term]:
    """Terms `alignment`, `box` and `centreness` of a micro-batch, in fp32.

    The last two are 0 where no anchor has a box.  The number of positives of a micro-batch counts as at least 1 on
    average; the box term is divided by how central its anchors lie.
    """
    wanted = anchor_targets(found.sizes, targets)
    count, central = positives(wanted)
    focal = sigmoid_focal_loss(found.alignment, wanted.words, ALPHA, GAMMA)
    alignment = torch.where(targets.mask[:, None, :], focal, 0.0).sum()
    boxes = generalised_iou_loss(decode(found.boxes, wanted.anchors.expand_as(found.boxes)), wanted.boxes) * central
    spread = functional.binary_cross_entropy_with_logits(found.centreness, central, reduction="none")
    spread = torch.where(wanted.owner >= 0, spread, 0.0)
    return {
        "alignment": Term(alignment, count, Scope.GLOBAL, least=1.0),
        "box": Term(boxes.sum(), central.sum(), Scope.GLOBAL, BOX_WEIGHT),
        "centreness": Term(spread.sum(), count, Scope.GLOBAL, least=1.0),
    }
