"""Photographs that ship inside scikit-image, those that are trained on and those that are held out.

The parts are split by photograph, for every example alike: nothing of a held-out one is in training.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

GREY = ("camera", "coins", "moon", "brick", "grass", "gravel")
PHOTOGRAPHS = {  # the motorcycle is one scene from two places, so both are on one side
    "train": (
        *("astronaut", "coffee", "motorcycle_left", "motorcycle_right", "hubble_deep_field", "ihc", "retina"),
        *GREY,
    ),
    "held-out": ("chelsea", "rocket"),
}
LONGEST, TILE = 448, 128  # pixels: of a photograph's longer side; of the squares that training rows are


def photograph(name: str) -> np.ndarray:
    """A photograph of scikit-image's package, uint8 RGB `(H, W, 3)`, its longer side at most `LONGEST`."""
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    (file,) = folder.glob(f"{name}.*g")
    picture = Image.open(file).convert("RGB")
    picture.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def squares(picture: np.ndarray) -> Iterator[np.ndarray]:
    """Squares of side `TILE` that cover a picture, the last ones overlapping those before."""
    height, width = picture.shape[:2]
    for top in places(height):
        for left in places(width):
            yield picture[top : top + TILE, left : left + TILE]


def places(size: int) -> list[int]:
    """First pixels of the squares along a side."""
    count = -(-size // TILE)
    return np.linspace(0, size - TILE, count).astype(int).tolist()
