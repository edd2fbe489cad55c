"""Which of the boxes that were found are right: COCO's rule for one class of one picture."""

from __future__ import annotations

import numpy as np

from lumiray.evaluate.detection import Picture

IOUS = np.linspace(0.5, 0.95, 10)


def overlaps(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Intersection over union, float64 `(n, m)`, of boxes `(n, 4)` and `(m, 4)` whose last pixels belong to them."""
    found, true = (one.astype(np.float64) + np.array([0, 0, 1, 1]) for one in (found, true))
    corner = np.maximum(found[:, None, :2], true[None, :, :2])
    far = np.minimum(found[:, None, 2:], true[None, :, 2:])
    common = np.prod(np.clip(far - corner, 0, None), axis=2)
    areas = [np.prod(one[:, 2:] - one[:, :2], axis=1) for one in (found, true)]
    return common / (areas[0][:, None] + areas[1][None, :] - common)


def matched(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Which boxes are right at each of `IOUS`.

    Each takes, best score first, the true box it overlaps most among those that no better one has taken; of equal ones
    the last, as COCO's code does.

    Args:
        found: `(n, 4)`, best first.
        true: `(m, 4)`.

    Returns:
        bool `(n, 10)`.
    """
    hits = np.zeros((len(found), len(IOUS)), bool)
    if not len(true):
        return hits
    every = overlaps(found, true)
    for column, least in enumerate(IOUS):
        free = np.ones(len(true), bool)
        for number in np.flatnonzero(every.max(1) >= min(least, 1 - 1e-10)):
            own = np.where(free, every[number], -1.0)
            best = len(own) - 1 - int(own[::-1].argmax())
            if own[best] >= min(least, 1 - 1e-10):
                hits[number, column], free[best] = True, False
    return hits


def of_label(picture: Picture, label: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes `(n, 4)` and scores `(n,)` of a class that were found in a picture, best first, and its true boxes."""
    own = picture["labels"] == label
    order = np.argsort(-picture["scores"][own], kind="stable")
    return picture["boxes"][own][order], picture["scores"][own][order], picture["true_boxes"][_true(picture, label)]


def _true(picture: Picture, label: int) -> np.ndarray:
    return picture["true_labels"] == label


def pictures_in(outputs: dict[str, np.ndarray], valid: list[bool]) -> list[tuple[int, Picture]]:
    """(place in the batch, its arrays) of the pictures that could be used."""
    places = [number for number, usable in enumerate(valid) if usable]
    return [(place, {name: value[place] for name, value in outputs.items()}) for place in places]
