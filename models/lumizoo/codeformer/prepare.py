"""A clean face and degraded versions of it (card codeformer, Data)."""

from __future__ import annotations

import cv2
import numpy as np

from lumiray.data.records import image_of
from lumiray.system import BadRow, Row
from lumizoo.codeformer.degradation import SLIGHT, STRONG, degraded

VERSIONS = {"vqgan": {}, "codes": {"degraded": STRONG}, "features": {"degraded": STRONG, "degraded_slightly": SLIGHT}}


def prepare_face(
    row: Row, stage: str, size: int, crop: bool, draw: np.random.Generator | None
) -> dict[str, np.ndarray]:
    """Mirror a face at random, and degrade it as the stage needs it.

    In evaluation nothing is mirrored, a crop is central, and the degradation follows from the row's identity: the same
    in every run.  (Which degradations the published figures are of is not known.)

    Args:
        row: one picture.
        stage: `vqgan`, `codes` or `features`.
        size: S, side of the result.
        crop: take a square of photographs, in place of whole faces, which are resized (bilinear).
        draw: the generator of training; None in evaluation.

    Returns:
        `clean`, in stages codes and features also `degraded` (strongly), in features also `degraded_slightly`; each
        uint8 RGB `(3, S, S)`.

    Raises:
        BadRow: no picture, one that cannot be decoded, a whole one that is not square, or one smaller than the crop.
    """
    picture = image_of(row).decoded()
    clean = cropped(picture, size, draw) if crop else whole(picture, size)
    if draw is None:
        draw = np.random.default_rng(row.identity)
    elif draw.random() < 0.5:
        clean = clean[:, ::-1]
    versions = {"clean": clean} | {name: degraded(clean, how, draw) for name, how in VERSIONS[stage].items()}
    return {name: np.ascontiguousarray(one.transpose(2, 0, 1)) for name, one in versions.items()}


def whole(picture: np.ndarray, size: int) -> np.ndarray:
    """An aligned face (H, H, 3) as (size, size, 3)."""
    height, width = picture.shape[:2]
    if height != width:
        raise BadRow(
            f"the picture has {width} x {height} pixels, and aligned faces are square; --crop true takes squares of "
            "photographs"
        )
    if height == size:
        return picture
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_LINEAR)


def cropped(picture: np.ndarray, size: int, draw: np.random.Generator | None) -> np.ndarray:
    """A square (size, size, 3) from anywhere, or from the centre."""
    height, width = picture.shape[:2]
    if min(height, width) < size:
        raise BadRow(f"the picture has {width} x {height} pixels, fewer than the crop of {size} x {size}")
    spare = (height - size, width - size)
    top, left = (one // 2 if draw is None else int(draw.integers(one + 1)) for one in spare)
    return picture[top : top + size, left : left + size]
