"""Fixed average precision of LVIS (Dave et al., Evaluating Large-Vocabulary Object Detectors, arXiv 2102.01066).

A class keeps its best 10,000 boxes over the whole set, and a picture has no limit: what is found of one class in a
picture takes no place from another.  Only classes that were looked for in a picture count there; where not every object
of a class was marked, boxes upon none of them are neither right nor wrong.

Boxes are matched where their picture is, for a worse one never changes what a better one takes; so ranks exchange
scores and marks, and the figures are the same for any number of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lumiray.evaluate.collect import gathered_objects
from lumiray.evaluate.detection import Picture
from lumiray.evaluate.matching import IOUS, matched, of_label, pictures_in
from lumiray.system import Batch

MOST = 10_000
RECALLS = np.linspace(0, 1, 101)
UNJUDGED, JUDGED, NOT_EXHAUSTIVE = 0, 1, 2
GROUPS = {"rare": (1, 10), "common": (11, 100), "frequent": (101, None)}  # pictures with the class, as LVIS has them


@dataclass(frozen=True)
class Marks:
    """Boxes that were found of one class, in any order.

    Args:
        places: int64 `(n, 2)`, row and place within its picture.
        scores: fp64 `(n,)`.
        right: bool `(n, 10)`, at each of `IOUS`.
        counts: bool `(n,)`, false for those that count only where they are right.
    """

    places: np.ndarray
    scores: np.ndarray
    right: np.ndarray
    counts: np.ndarray

    def best(self, most: int) -> Marks:
        """The best of them, best first; of equal ones those of earlier rows."""
        order = np.lexsort((self.places[:, 1], self.places[:, 0], -self.scores))[:most]
        return Marks(self.places[order], self.scores[order], self.right[order], self.counts[order])


class FixedApEvaluator:
    """Fixed average precision; equal figures on every rank.

    Args:
        pictures_of: how many pictures of the training set have a class (its number, from 1 on): what rare, common and
            frequent are told by.  None counts the evaluated pictures.
    """

    def __init__(self, pictures_of: Mapping[int, int] | None = None) -> None:
        self._pictures_of = pictures_of
        self._marks: dict[int, list[Marks]] = {}
        self._true: Counter[int] = Counter()
        self._pictures: Counter[int] = Counter()

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Take one batch.

        Args:
            outputs: as `BoxEvaluator` takes them, and `judged` `(B, C)` for the classes from 1 on: 0 where a class was
                not looked for in the picture, 1 where every object of it is marked, 2 where some may not be.
        """
        rows = batch["row"].tolist()
        arrays = {name: value.detach().cpu().numpy() for name, value in outputs.items()}
        for place, picture in pictures_in(arrays, batch["valid"].tolist()):
            self._take(rows[place], picture)

    def _take(self, row: int, picture: Picture) -> None:
        for label in sorted(set(picture["labels"].tolist()) | set(picture["true_labels"].tolist())):
            if label <= 0 or picture["judged"][label - 1] == UNJUDGED:
                continue
            boxes, scores, true = of_label(picture, label)
            self._true[label] += len(true)
            self._pictures[label] += len(true) > 0
            right = matched(boxes, true)
            places = np.stack([np.full(len(boxes), row), np.arange(len(boxes))], axis=1)
            counts = np.full(len(boxes), picture["judged"][label - 1] != NOT_EXHAUSTIVE)
            self._marks.setdefault(label, []).append(Marks(places, scores.astype(np.float64), right, counts))

    def compute(self) -> dict[str, float]:
        """`fixed_ap`, at IoU 0.50 and 0.75, and of rare, common and frequent classes, as far as there are such.

        Each is the mean over the classes that a judged picture has, 0 to 1.  Every rank must call it.
        """
        own = {label: joined(parts).best(MOST) for label, parts in self._marks.items()}
        ranks = gathered_objects((own, self._true, self._pictures))
        true: Counter[int] = sum((one for _, one, _ in ranks), Counter())
        pictures: Mapping[int, int] = self._pictures_of or sum((one for _, _, one in ranks), Counter())
        found: dict[int, np.ndarray] = {}
        for label, count in sorted(true.items()):
            parts = [marks[label] for marks, _, _ in ranks if label in marks]
            found[label] = precision_by_iou(joined(parts).best(MOST), count)
        if not found:
            return {}
        every = np.stack(list(found.values()))
        figures = {"fixed_ap": every.mean(), "fixed_ap_50": every[:, 0].mean(), "fixed_ap_75": every[:, 5].mean()}
        for group, (least, most) in GROUPS.items():
            members = [
                value
                for label, value in found.items()
                if least <= pictures.get(label, 0) and (most is None or pictures.get(label, 0) <= most)
            ]
            if members:
                figures[f"fixed_ap_{group}"] = np.stack(members).mean()
        return {name: float(value) for name, value in figures.items()}


def joined(parts: list[Marks]) -> Marks:
    """Several of one class as one."""
    fields = ("places", "scores", "right", "counts")
    return Marks(*(np.concatenate([getattr(one, name) for one in parts]) for name in fields))


def precision_by_iou(marks: Marks, true: int) -> np.ndarray:
    """Average precision of a class at each of `IOUS`, over 101 recalls as COCO takes it.

    Args:
        marks: best first.
        true: boxes of the class that there are, 1 or more.
    """
    found = np.zeros(len(IOUS))
    for column in range(len(IOUS)):
        right = marks.right[:, column]
        right = right[right | marks.counts]
        hits = np.cumsum(right)
        precision = hits / np.arange(1, len(right) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]  # the best at this recall or above
        places = np.searchsorted(hits / true, RECALLS, side="left")
        found[column] = np.append(precision, 0.0)[np.minimum(places, len(precision))].mean()
    return found
