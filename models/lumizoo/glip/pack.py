"""Pictures of several sizes and boxes of several numbers in one batch (card glip, Task and contract)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

MULTIPLE = 32
# arrays whose first axis has as many rows as there are boxes, classes or texts; the others have one shape in all rows
LISTS = ("boxes", "words", "labels", "class_words", "class_text", "judged", "tokens", "mask")


def pack(rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Stack prepared rows; what is shorter is filled with zeros, pictures on the right and at the bottom.

    Returns:
        the arrays of the rows with a first axis for these; sides of `picture` are a common multiple of 32.
    """
    arrays = {name: [np.asarray(row[name]) for row in rows] for name in rows[0]}
    return {name: _packed(name, values) for name, values in arrays.items()}


def _packed(name: str, values: list[np.ndarray]) -> np.ndarray:
    if name != "picture" and name not in LISTS:
        return np.stack(values)
    shape = [max(sides) for sides in zip(*(one.shape for one in values), strict=True)]
    if name == "picture":
        shape[1:] = [-(-side // MULTIPLE) * MULTIPLE for side in shape[1:]]
    packed = np.zeros((len(values), *shape), values[0].dtype)
    for place, one in zip(packed, values, strict=True):
        place[tuple(slice(side) for side in one.shape)] = one
    return packed
