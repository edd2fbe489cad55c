"""What the enhancer and the prompts are trained by (card clip-lit, Losses)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor

from lumiray.system import Term

CLIP_WEIGHT = 320.0
RANK_WEIGHT = 200.0
ENHANCEMENT_SHARE = 0.9  # of the identity term's weight where the score counts as well
RECONSTRUCTION_LEVELS = (1.0, 1.0, 1.0, 1.0, 1.0)
ENHANCEMENT_LEVELS = (1.0, 1.0, 1.0, 1.0, 0.5)
PUBLISHED_BATCH = 8  # pictures whose distances the published code sums where it averages everything else
# by how many stored results there are: between backlit and all behind it; between what follows each other after that
MARGINS = ((1.0, 0.0), (0.9, 0.2), (0.9, 0.1))


def classification(scores: Tensor, source: Tensor) -> Term:
    """Cross-entropy of logits `(B, 2)`: source 0 is backlit, the first prompt's, source 1 well-lit."""
    return Term(functional.cross_entropy(scores, source.long(), reduction="sum"), len(scores))


def content_distances(changed: Sequence[Tensor], given: Sequence[Tensor], levels: Sequence[float]) -> Tensor:
    """For each picture the weighted sum over feature maps of their mean squared difference, `(B,)`.

    Args:
        changed, given: one `(B, C, h, w)` for each level; gradient reaches what it may.
        levels: weight of each.
    """
    pairs = zip(levels, changed, given, strict=True)
    return torch.stack([weight * (one - other).square().flatten(1).mean(1) for weight, one, other in pairs]).sum(0)


def identity_term(distances: Tensor, weight: float) -> Term:
    """The distances of a batch's pictures as the published code weighs them, whose sum is over 8 pictures.

    As a mean, times 8: the balance with the score depends on no batch size then, and on no number of workers.
    """
    return Term(distances.sum(), len(distances), weight=weight * PUBLISHED_BATCH)


def ranking(higher: Tensor, lower: Tensor, margin: float) -> Tensor:
    """By how much each `higher` fails to be `margin` above its `lower`; shapes that broadcast to the result's."""
    return (margin - (higher - lower)).relu()


def ranked_pairs(results: int) -> tuple[tuple[int, int, float], ...]:
    """Which of [backlit, results ..., well-lit] lies how far above which other, as (higher, lower, margin).

    Args:
        results: how many there are: 0, 1 or 2.
    """
    behind, between = MARGINS[results]
    last = results + 1
    first = ((0, last, behind),) if results == 0 else ((0, last, behind), (0, 1, behind))
    return first + tuple((one, one + 1, between) for one in range(1, last))


def ranking_terms(pictures: Tensor, results: Tensor, is_backlit: Tensor) -> dict[str, Term]:
    """Margins between negative probabilities of backlit pictures, their results and well-lit pictures.

    The published loader pairs every backlit picture with a random well-lit one; here it is compared with all of its
    micro-batch, which is the mean over such pairings.

    Args:
        pictures: of every row's picture, `(B,)`.
        results: of its results, `(B, R)`, in the order of the loss; those of well-lit rows mean nothing.
        is_backlit: 1 or 0, `(B,)`.
    """
    count = results.shape[1]
    chain = [pictures, *results.unbind(1)]
    terms = {}
    for higher, lower, margin in ranked_pairs(count):
        if lower > count:  # well-lit pictures: all of the micro-batch
            weights = is_backlit[:, None] * (1 - is_backlit)[None, :]
            values = ranking(chain[higher][:, None], pictures[None, :], margin)
        else:
            weights, values = is_backlit, ranking(chain[higher], chain[lower], margin)
        names = [_name(place, count) for place in (higher, lower)]
        terms["_over_".join(names)] = Term((weights * values).sum(), weights.sum(), weight=RANK_WEIGHT)
    return terms


def _name(place: int, results: int) -> str:
    if place in (0, results + 1):
        return "well_lit" if place else "backlit"
    return f"result{place}"
