"""Retrieval between pictures and texts: recall at 1, 5, 10, mean and median rank, in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lumiray.evaluate.collect import Collected, gather_ranks, share_of_rank
from lumiray.evaluate.ranks import partner_ranks, top_candidates
from lumiray.system import Batch

KS = (1, 5, 10)


def summary(ranks: Tensor, name: str, ks: Sequence[int] = KS) -> dict[str, float]:
    """Figures of 0-based ranks: `NAME_R@k` in [0, 1], `NAME_mean_rank` and `NAME_median_rank` from 1."""
    figures = {f"{name}_R@{k}": float((ranks < k).double().mean()) for k in ks}
    figures[f"{name}_mean_rank"] = float(ranks.double().mean()) + 1
    middle = torch.quantile(ranks.double(), 0.5)
    figures[f"{name}_median_rank"] = float(torch.floor(middle)) + 1
    return figures


def retrieval_metrics(image: Tensor, text: Tensor, chunk: int = 4096) -> dict[str, float]:
    """Both directions for pairs in equal order; features normalised, fp32 `(N, D)`.

    With torch.distributed up every rank ranks its share of the queries, and all get the same figures.
    """
    figures: dict[str, float] = {}
    own = share_of_rank(len(image))
    partners = torch.arange(len(image))[own]
    for name, queries, candidates in (("image_to_text", image, text), ("text_to_image", text, image)):
        ranks = gather_ranks(partner_ranks(queries[own], candidates, partners, chunk))
        figures |= summary(ranks, name)
    return figures


def multi_caption_recall(
    image: Tensor, text: Tensor, owner: Tensor, ks: Sequence[int] = KS, chunk: int = 4096
) -> dict[str, float]:
    """Recall where a picture has several captions (COCO, Flickr30k; card clip, evaluation).

    Args:
        image: `(N, D)`; text: `(M, D)`; owner: int64 `(M,)`, the picture of each caption.

    Returns:
        `image_retrieval_recall@k` (a caption finds its picture), `text_retrieval_recall@k` (a picture finds at
        least one of its captions).
    """
    of_texts = partner_ranks(text, image, owner, chunk)
    captions = torch.arange(len(text))
    best = torch.full((len(image),), len(text), dtype=torch.int64)
    for start in range(0, len(text), chunk):
        part = captions[start : start + chunk]
        # every caption's rank among all captions, as seen from its own picture
        ranks = partner_ranks(image[owner[part]], text, part, chunk)
        best.scatter_reduce_(0, owner[part], ranks, "amin")
    figures = {f"image_retrieval_recall@{k}": float((of_texts < k).double().mean()) for k in ks}
    return figures | {f"text_retrieval_recall@{k}": float((best < k).double().mean()) for k in ks}


class RetrievalEvaluator:
    """Retrieval over an evaluation set: features are kept, ranked at the end, exact for any number of ranks."""

    def __init__(self) -> None:
        self._collected = Collected()
        self.features: dict[str, Tensor] = {}

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Keep one batch's features; `batch` has `row` (planned order) and `valid`."""
        self._collected.add(batch["valid"], row=batch["row"], image=outputs["image"], text=outputs["text"])

    def compute(self) -> dict[str, float]:
        """Figures over all ranks' rows; equal on every rank."""
        self.features = self._collected.everywhere("row")
        return retrieval_metrics(self.features["image"].float(), self.features["text"].float())

    def best_pictures(self, most: int) -> dict[str, list[Any]]:
        """For every text the rows of its best pictures, and the rank of its own; call after `compute`."""
        image, text = self.features["image"].float(), self.features["text"].float()
        ranks = partner_ranks(text, image, torch.arange(len(text)))
        return {
            "row": self.features["row"].tolist(),
            "best": top_candidates(text, image, most).tolist(),
            "rank": ranks.tolist(),
        }
