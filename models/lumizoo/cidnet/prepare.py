"""A dark picture and its bright one: the same crop of both in training, whole in evaluation (card cidnet, Training)."""

from __future__ import annotations

import numpy as np

from lumiray.data.records import pair_of
from lumiray.system import BadRow, Row

LEAST_SIDE = 11  # of pictures that are evaluated: the window of SSIM (card cidnet, Metrics)


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
    pair = {half: picture.decoded() for half, picture in pair_of(row).items()}
    (height, width), other = (picture.shape[:2] for picture in pair.values())
    if (height, width) != other:
        raise BadRow(f"lq has {width} x {height} pixels and gt {other[1]} x {other[0]}; a pair has one size")
    least, purpose = (LEAST_SIDE, "SSIM's window") if draw is None else (size, "the crop")
    if min(height, width) < least:
        raise BadRow(f"the pair has {width} x {height} pixels, fewer than {purpose} of {least} x {least}")
    if draw is not None:
        pair = cropped(pair, size, draw)
    return {half: np.ascontiguousarray(picture.transpose(2, 0, 1)) for half, picture in pair.items()}


def cropped(pair: dict[str, np.ndarray], size: int, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """The same random square of side `size` of each picture `(H, W, 3)`, mirrored and turned upside down alike."""
    height, width = pair["gt"].shape[:2]
    top, left = int(draw.integers(height - size + 1)), int(draw.integers(width - size + 1))
    mirrored, upside_down = draw.random() < 0.5, draw.random() < 0.5
    squares = {half: picture[top : top + size, left : left + size] for half, picture in pair.items()}
    return {half: one[:: -1 if upside_down else 1, :: -1 if mirrored else 1] for half, one in squares.items()}
