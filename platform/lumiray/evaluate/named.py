"""Evaluations by the names that a system's stages use, and zero-shot classification where classes are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

from torch import Tensor

from lumiray.errors import UserError, near
from lumiray.evaluate.classes import Classes
from lumiray.evaluate.detection import BoxEvaluator
from lumiray.evaluate.fidelity import FidelityEvaluator, gt_mean, on_y, psnr, ssim
from lumiray.evaluate.fixed_ap import FixedApEvaluator
from lumiray.evaluate.phrase_recall import PhraseRecallEvaluator
from lumiray.evaluate.retrieval import RetrievalEvaluator
from lumiray.evaluate.zero_shot import ZeroShotEvaluator, class_embeddings
from lumiray.system import Batch


class Evaluator(Protocol):
    """Takes outputs batch by batch; computes figures that are equal on every rank."""

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Take one batch."""

    def compute(self) -> dict[str, float]:
        """Figures over everything seen by all ranks."""


FIDELITY = {
    "psnr": psnr,
    "ssim": ssim,
    "psnr_gt_mean": gt_mean(psnr),
    "ssim_gt_mean": gt_mean(ssim),
    "psnr_y": on_y(psnr),
    "ssim_y": on_y(ssim),
}
EVALUATORS: dict[str, Callable[[], Evaluator]] = {
    "retrieval": RetrievalEvaluator,
    "box_ap": BoxEvaluator,
    "fixed_ap": FixedApEvaluator,
    "phrase_recall": PhraseRecallEvaluator,
    **{name: partial(FidelityEvaluator, name, measure) for name, measure in FIDELITY.items()},
}


def evaluators(
    names: Sequence[str], classes: Classes | None, embed_texts: Callable[[list[str]], Tensor]
) -> list[Evaluator]:
    """Fresh evaluations of these names, and of the classes if there are any; every rank must call it.

    Raises:
        UserError: there is none of that name.
    """
    for name in names:
        if name not in EVALUATORS:
            raise UserError(f"There is no evaluation {name!r}.{near(name, EVALUATORS)}")
    found: list[Evaluator] = [EVALUATORS[name]() for name in names]
    if classes is not None:
        found.append(ZeroShotEvaluator(class_embeddings(embed_texts, classes.names, classes.templates)))
    return found


def evaluated(
    found: Iterable[Evaluator], batches: Iterable[Batch], embed: Callable[[Batch], dict[str, Tensor]]
) -> dict[str, float]:
    """All figures of one pass over an evaluation set; equal on every rank."""
    found = list(found)
    for batch in batches:
        outputs = embed(batch)
        for one in found:
            one.update(outputs, batch)
    metrics: dict[str, float] = {}
    for one in found:
        metrics |= one.compute()
    return metrics
