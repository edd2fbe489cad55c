"""A dark picture and its bright one to two crops of the same place (card cidnet, Training)."""

from __future__ import annotations

import numpy as np

from lumiray.data.decode import decode
from lumiray.system import BadRow, Row

HALVES = ("lq", "gt")
EXTENSIONS = ("png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff")


def prepare_pair(row: Row, size: int, draw: np.random.Generator | None) -> dict[str, np.ndarray]:
    """Crop both pictures alike: at random and mirrored in training, in the middle in evaluation.

    Args:
        row: parts `lq.EXTENSION` (dark) and `gt.EXTENSION` (its reference).
        size: S, side of the crop.
        draw: the generator of training; None in evaluation.

    Returns:
        `lq` and `gt`, uint8 RGB `(3, S, S)`.

    Raises:
        BadRow: a half is missing or cannot be decoded, they differ in size, or are smaller than the crop.
    """
    pair = {half: half_of(row, half) for half in HALVES}
    (height, width), other = (picture.shape[:2] for picture in pair.values())
    if (height, width) != other:
        raise BadRow(f"lq has {width} x {height} pixels and gt {other[1]} x {other[0]}; a pair has one size")
    if min(height, width) < size:
        raise BadRow(f"the pair has {width} x {height} pixels, fewer than the crop of {size} x {size}")
    if draw is None:
        top, left, mirrored, upside_down = (height - size) // 2, (width - size) // 2, False, False
    else:
        top, left = int(draw.integers(height - size + 1)), int(draw.integers(width - size + 1))
        mirrored, upside_down = draw.random() < 0.5, draw.random() < 0.5
    prepared = {}
    for half, picture in pair.items():
        crop = picture[top : top + size, left : left + size]
        crop = crop[:: -1 if upside_down else 1, :: -1 if mirrored else 1]
        prepared[half] = np.ascontiguousarray(crop.transpose(2, 0, 1))
    return prepared


def half_of(row: Row, half: str) -> np.ndarray:
    """The picture `lq` or `gt` of a row, uint8 RGB `(H, W, 3)`.

    Raises:
        BadRow: there is none, or it cannot be decoded.
    """
    for extension in EXTENSIONS:
        part = f"{half}.{extension}"
        if part in row.parts:
            try:
                return decode(row.parts[part])
            except BadRow as error:
                raise BadRow(f"{part}: {error}") from None
    raise BadRow(f"the row has no picture {half}.* (it has {', '.join(sorted(row.parts)) or 'nothing'})")
