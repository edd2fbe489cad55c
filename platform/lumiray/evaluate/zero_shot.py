"""Zero-shot classification: class names and templates in, accuracy out (card clip, Inference and evaluation)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor

from lumiray.errors import UserError
from lumiray.evaluate.collect import Collected, gather_ranks, share_of_rank, world_size
from lumiray.system import Batch

SCORE_SCALE = 100.0  # constant, not the learnt scale: as published


def class_embeddings(
    embed_texts: Callable[[list[str]], Tensor],
    class_names: Sequence[str],
    templates: Sequence[str],
    classes_at_once: int = 4,
) -> Tensor:
    """One column per class: features of all filled templates, normalised, averaged, normalised again.

    With torch.distributed up every rank embeds its share, in equally many calls, as ZeRO 3 needs it.

    Args:
        embed_texts: texts -> features `(n, D)`.
        templates: texts with `{}` for the class.

    Returns:
        `(D, classes)`, equal on every rank.
    """
    per_rank = -(-len(class_names) // world_size())
    padded = [*class_names, *[class_names[-1]] * (per_rank * world_size() - len(class_names))]
    own = padded[share_of_rank(len(padded))]
    columns = []
    for start in range(0, per_rank, classes_at_once):
        names = own[start : start + classes_at_once]
        texts = [template.replace("{}", name) for name in names for template in templates]
        features = functional.normalize(embed_texts(texts).float(), dim=-1)
        means = features.reshape(len(names), len(templates), -1).mean(1)
        columns.append(functional.normalize(means, dim=-1).cpu())
    return gather_ranks(torch.cat(columns))[: len(class_names)].T


def zero_shot_logits(image: Tensor, classifier: Tensor) -> Tensor:
    """Scores `(b, classes)` of normalised features `(b, D)`."""
    return SCORE_SCALE * image @ classifier


def class_ranks(logits: Tensor, label: Tensor) -> Tensor:
    """0-based rank of each row's class: classes that score higher, and equal ones with a smaller number.

    So a network that gives every class the same score is as good as chance, not perfect; a score that is not a
    number ranks last.

    Args:
        logits: `(b, classes)`.
        label: int64 `(b,)`, in [0, classes).
    """
    own = logits.gather(1, label[:, None])
    numbers = torch.arange(logits.shape[1], device=logits.device)
    ahead = (logits > own) | ((logits == own) & (numbers < label[:, None]))
    return torch.where(own.squeeze(1).isnan(), logits.shape[1] - 1, ahead.sum(1))


class ZeroShotEvaluator:
    """Top-1 and top-5 accuracy over the rows of an evaluation set that carry a class number (`.cls`)."""

    def __init__(self, classifier: Tensor) -> None:
        self._classifier = classifier
        self._collected = Collected()

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Take one batch; rows have `label` (-1 for none), `row` and `valid`.

        Raises:
            UserError: a class number for which there is no name.
        """
        label, classes = batch["label"], self._classifier.shape[1]
        labelled = batch["valid"].bool() & (label >= 0)
        beyond = label[labelled & (label >= classes)]
        if len(beyond):
            raise UserError(
                f"A row has the class {int(beyond.max())}, and there are class names for 0 to {classes - 1} only."
            )
        logits = zero_shot_logits(outputs["image"], self._classifier.to(outputs["image"].device))
        self._collected.add(labelled, row=batch["row"], rank=class_ranks(logits, label.clamp(0, classes - 1)))

    def compute(self) -> dict[str, float]:
        """`zero_shot_top1` and `zero_shot_top5` in [0, 1]; equal on every rank.

        Raises:
            UserError: no row has a class number.
        """
        rank = self._collected.everywhere("row")["rank"]
        if not len(rank):
            raise UserError("Zero-shot classification needs a class number per row: a member KEY.cls in the shards.")
        return {f"zero_shot_top{k}": float((rank < k).double().mean()) for k in (1, 5)}
