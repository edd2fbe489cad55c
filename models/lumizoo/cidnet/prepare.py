"""A dark picture and its bright one: the same crop of both in training, whole in evaluation (card cidnet, Training)."""

from __future__ import annotations

import numpy as np

from lumiray.system import Row
from lumizoo.blocks.whole_pairs import channels_first, decoded_pair, whole_pair


def prepare_pair(row: Row, size: int, draw: np.random.Generator | None) -> dict[str, np.ndarray]:
    """Crop and mirror both pictures alike, at random; in evaluation leave them whole.

    Args:
        row: parts `lq.EXTENSION` (dark) and `gt.EXTENSION` (its reference).
        size: S, side of the crop.
        draw: the generator of training; None in evaluation.

    Returns:
        `lq` and `gt`, uint8 RGB `(3, S, S)`, in evaluation `(3, H, W)`.

    Raises:
        BadRow: a half is missing or cannot be decoded, they differ in size, or are smaller than the crop.
    """
    if draw is None:
        return whole_pair(row)
    return channels_first(cropped(decoded_pair(row, size, "the crop"), size, draw))


def cropped(pair: dict[str, np.ndarray], size: int, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """The same random square of side `size` of each picture `(H, W, 3)`, mirrored and turned upside down alike."""
    height, width = pair["gt"].shape[:2]
    top, left = int(draw.integers(height - size + 1)), int(draw.integers(width - size + 1))
    mirrored, upside_down = draw.random() < 0.5, draw.random() < 0.5
    squares = {half: picture[top : top + size, left : left + size] for half, picture in pair.items()}
    return {half: one[:: -1 if upside_down else 1, :: -1 if mirrored else 1] for half, one in squares.items()}
