"""Average precision of boxes as COCO defines it, by pycocotools, over an evaluation set on any number of ranks."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from torch import Tensor

from lumiray.evaluate.collect import gathered_objects
from lumiray.system import Batch

Picture = dict[str, np.ndarray]
MOST = 100  # boxes of a picture that count, whatever more was found
FIGURES = {"box_ap": 0, "box_ap_50": 1, "box_ap_75": 2}  # places in COCOeval.stats; the first over IoU 0.50 to 0.95


class BoxEvaluator:
    """Boxes of every picture beside the true ones; equal figures on every rank."""

    def __init__(self) -> None:
        self._own: list[tuple[int, Picture]] = []

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Take one batch.

        Args:
            outputs: `boxes` `(B, M, 4)` with inclusive corners x1 y1 x2 y2, `scores` `(B, M)`, `labels` `(B, M)` from
                1 on and 0 for padding, best first; `true_boxes` `(B, N, 4)`, `true_labels` `(B, N)` alike.
        """
        found = {name: value.detach().cpu().numpy() for name, value in outputs.items()}
        for number, (row, valid) in enumerate(zip(batch["row"].tolist(), batch["valid"].tolist(), strict=True)):
            if valid:
                self._own.append((row, {name: value[number] for name, value in found.items()}))

    def compute(self) -> dict[str, float]:
        """`box_ap` and at single IoUs, 0 to 1; nothing where no picture has a true box.  Every rank must call it."""
        rows = sorted((one for own in gathered_objects(self._own) for one in own), key=lambda one: one[0])
        truth = dataset([picture for _, picture in rows])
        if not truth["annotations"]:
            return {}
        stats = coco_stats(truth, [one for number, (_, picture) in enumerate(rows) for one in results(number, picture)])
        return {name: float(stats[place]) for name, place in FIGURES.items()}


def dataset(pictures: list[Picture]) -> dict[str, Any]:
    """The true boxes in COCO's form; pictures are numbered as they come."""
    annotations: list[dict[str, Any]] = []
    for number, picture in enumerate(pictures):
        for box, label in zip(picture["true_boxes"], picture["true_labels"], strict=True):
            if label > 0:
                corner, size = corner_and_size(box)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": int(label),
                        "bbox": [*corner, *size],
                        "area": size[0] * size[1],
                        "iscrowd": 0,
                    }
                )
    labels = sorted({one["category_id"] for one in annotations})
    return {
        "info": {},
        "images": [{"id": number} for number in range(len(pictures))],
        "categories": [{"id": label} for label in labels],
        "annotations": annotations,
    }


def results(number: int, picture: Picture) -> list[dict[str, Any]]:
    """What was found in a picture, in COCO's form."""
    return [
        {
            "image_id": number,
            "category_id": int(label),
            "bbox": [part for pair in corner_and_size(box) for part in pair],
            "score": float(score),
        }
        for box, score, label in zip(*(picture[name][:MOST] for name in ("boxes", "scores", "labels")), strict=True)
        if label > 0
    ]


def corner_and_size(box: np.ndarray) -> tuple[list[float], list[float]]:
    """(x, y) and (width, height) of a box whose last pixel belongs to it."""
    left, top, right, bottom = (float(one) for one in box)
    return [left, top], [right - left + 1, bottom - top + 1]


def coco_stats(truth: dict[str, Any], found: list[dict[str, Any]]) -> np.ndarray:
    """The twelve numbers of COCO's evaluation; it prints tables, which are kept back."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not found:
        return np.zeros(12)
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = truth
        known.createIndex()
        evaluation = COCOeval(known, known.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.asarray(evaluation.stats)
