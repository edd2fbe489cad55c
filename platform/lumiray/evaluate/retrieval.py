"""Retrieval between pictures and texts: recall at 1, 5, 10, mean and median rank, in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lumiray.evaluate.collect import Collected, gather_ranks, share_of_rank
from lumiray.evaluate.ranks import CHUNK, partner_ranks, top_candidates
from lumiray.system import Batch

KS = (1, 5, 10)


def recall(ranks: Tensor, k: int, num_candidates: int) -> float:
    """Share of 0-based ranks within the first `k`, in [0, 1]; one past all candidates is never a hit."""
    return float((ranks < min(k, num_candidates)).double().mean())


def summary(ranks: Tensor, name: str, num_candidates: int, ks: Sequence[int] = KS) -> dict[str, float]:
    """Figures of 0-based ranks: `NAME_R@k` in [0, 1], `NAME_mean_rank` and `NAME_median_rank` from 1."""
    figures = {f"{name}_R@{k}": recall(ranks, k, num_candidates) for k in ks}
    figures[f"{name}_mean_rank"] = float(ranks.double().mean()) + 1
    middle = torch.quantile(ranks.double(), 0.5)
    figures[f"{name}_median_rank"] = float(torch.floor(middle)) + 1
    return figures


def both_ranks(image: Tensor, text: Tensor, owner: Tensor, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """0-based ranks in both directions; a picture may have several captions, or one.

    With torch.distributed up every rank works on its share of the captions, and all get the same result.

    Args:
        image: normalised fp32 `(N, D)`; text: `(M, D)`; owner: int64 `(M,)`, the picture of each caption.

    Returns:
        of each caption's picture among the pictures `(M,)`; of each picture's best caption among the captions
        `(N,)`, M for a picture without one.
    """
    own = share_of_rank(len(text))
    captions = torch.arange(len(text))[own]
    of_texts = gather_ranks(partner_ranks(text[own], image, owner[own], chunk))
    # every caption's rank among all captions, as seen from its own picture
    seen = [partner_ranks(image[owner[part]], text, part, chunk) for part in captions.split(chunk)]
    ranks = gather_ranks(torch.cat(seen) if seen else captions)
    best = torch.full((len(image),), len(text), dtype=torch.int64)
    return of_texts, best.scatter_reduce_(0, owner, ranks, "amin")


def retrieval_metrics(image: Tensor, text: Tensor, owner: Tensor | None = None, chunk: int = CHUNK) -> dict[str, float]:
    """Figures of both directions; without `owner` caption i belongs to picture i."""
    pairs = torch.arange(len(image)) if owner is None else owner
    of_texts, of_images = both_ranks(image, text, pairs, chunk)
    return summary(of_images, "image_to_text", len(text)) | summary(of_texts, "text_to_image", len(image))


def multi_caption_recall(
    image: Tensor, text: Tensor, owner: Tensor, ks: Sequence[int] = KS, chunk: int = CHUNK
) -> dict[str, float]:
    """Recall under the names of published tables (COCO, Flickr30k; card clip, evaluation).

    Returns:
        `image_retrieval_recall@k` (a caption finds its picture), `text_retrieval_recall@k` (a picture finds at
        least one of its captions).
    """
    of_texts, of_images = both_ranks(image, text, owner, chunk)
    figures = {f"image_retrieval_recall@{k}": recall(of_texts, k, len(image)) for k in ks}
    return figures | {f"text_retrieval_recall@{k}": recall(of_images, k, len(text)) for k in ks}


class RetrievalEvaluator:
    """Retrieval over an evaluation set: features are kept, ranked at the end, exact for any number of ranks.

    Rows without a caption take no part.
    """

    def __init__(self) -> None:
        self._images, self._texts = Collected(), Collected()
        self.images: dict[str, Tensor] = {}
        self.texts: dict[str, Tensor] = {}

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Keep one batch's features; `batch` has `row` (planned order) and `valid`."""
        row, valid, owner = batch["row"], batch["valid"].bool(), outputs["owner"]
        captioned = torch.zeros_like(valid).scatter_(0, owner, torch.ones_like(owner, dtype=torch.bool))
        self._images.add(valid & captioned, row=row, image=outputs["image"])
        self._texts.add(valid[owner], row=row[owner], text=outputs["text"])

    def compute(self) -> dict[str, float]:
        """Figures over all ranks' rows, equal on every rank; none if no row has a caption."""
        self.images, self.texts = self._images.everywhere("row"), self._texts.everywhere("row")
        if not len(self.texts["row"]):
            return {}
        return retrieval_metrics(self.images["image"].float(), self.texts["text"].float(), self._owner())

    def _owner(self) -> Tensor:
        return torch.searchsorted(self.images["row"], self.texts["row"])

    def best_pictures(self, most: int) -> dict[str, list[Any]]:
        """For every caption the places of its best pictures, and the rank of its own; call after `compute`.

        Places count the pictures in planned order; `row` says which row of the set each of them is.
        """
        image, text = self.images["image"].float(), self.texts["text"].float()
        return {
            "row": self.images["row"].tolist(),
            "best": top_candidates(text, image, most).tolist(),
            "rank": partner_ranks(text, image, self._owner()).tolist(),
        }
