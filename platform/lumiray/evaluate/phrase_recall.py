"""Recall of phrases, as Flickr30k Entities is evaluated (card glip, Inference): is one of the best k boxes right?

By the protocol of any box: a phrase with several true boxes is found if a box lies upon any of them.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from lumiray.evaluate.collect import sum_over_ranks
from lumiray.evaluate.matching import of_label, overlaps, pictures_in
from lumiray.system import Batch

CUTS = (1, 5, 10)
LEAST = 0.5  # intersection over union


class PhraseRecallEvaluator:
    """Share of phrases that are found within the best 1, 5 and 10 boxes; equal figures on every rank."""

    def __init__(self) -> None:
        self._hits, self._phrases = dict.fromkeys(CUTS, 0), 0

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Take one batch.

        Args:
            outputs: as `BoxEvaluator` takes them; a label is a phrase of the picture's own caption.  Phrases without a
                true box do not count.
        """
        arrays = {name: value.detach().cpu().numpy() for name, value in outputs.items()}
        for _, picture in pictures_in(arrays, batch["valid"].tolist()):
            for phrase in sorted(set(picture["true_labels"].tolist()) - {0}):
                boxes, _, true = of_label(picture, phrase)
                right = np.flatnonzero((overlaps(boxes, true) >= LEAST).any(axis=1))
                first = int(right[0]) if len(right) else max(CUTS)
                self._phrases += 1
                for cut in CUTS:
                    self._hits[cut] += first < cut

    def compute(self) -> dict[str, float]:
        """`phrase_recall@k` for k of 1, 5, 10, 0 to 1; nothing where there are no phrases.  Every rank must call it."""
        phrases = sum_over_ranks(self._phrases)
        hits = {cut: sum_over_ranks(count) for cut, count in self._hits.items()}
        return {f"phrase_recall@{cut}": count / phrases for cut, count in hits.items()} if phrases else {}
