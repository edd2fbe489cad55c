"""A clean face and spoilt versions of it (card codeformer, Data)."""

from __future__ import annotations

import cv2
import numpy as np

from lumiray.data.records import image_of
from lumiray.system import BadRow, Row
from lumizoo.codeformer.config import CodeformerConfig
from lumizoo.codeformer.degradation import SLIGHT, STRONG, degraded
from lumizoo.codeformer.discolouring import discoloured
from lumizoo.codeformer.strokes import NARROW, WIDE, masked

Draw = np.random.Generator


def prepare_face(row: Row, stage: str, config: CodeformerConfig, draw: Draw | None) -> dict[str, np.ndarray]:
    """Mirror a face at random, and spoil it as the stage needs it.

    In evaluation nothing is mirrored, a crop is central, and what is spoilt follows from the row's identity: it is the
    same in every run.  (Which degradations the published figures are of is not known.)

    Args:
        row: one picture.
        stage: the name of one.
        config: its `size` S is the side of the result; with `crop` it is cut out of photographs, in place of whole
            faces, which are resized (bilinear).
        draw: the generator of training; None in evaluation.

    Returns:
        `clean`, and what `spoilt` names; each uint8 RGB `(3, S, S)`.

    Raises:
        BadRow: no picture, one that cannot be decoded, a whole one that is not square, or one smaller than the crop.
    """
    picture = image_of(row).decoded()
    clean = cropped(picture, config.size, draw) if config.crop else whole(picture, config.size)
    if draw is None:
        draw = np.random.default_rng(row.identity)
    elif draw.random() < 0.5:
        clean = clean[:, ::-1]
    clean = np.ascontiguousarray(clean)
    versions = {"clean": clean} | spoilt(clean, stage, config.task, draw)
    return {name: np.ascontiguousarray(one.transpose(2, 0, 1)) for name, one in versions.items()}


def spoilt(clean: np.ndarray, stage: str, task: str, draw: Draw) -> dict[str, np.ndarray]:
    """What networks of a stage see of a face uint8 RGB (S, S, 3), of the same kind.

    Returns:
        nothing in stage vqgan; `degraded` (strongly, for colourisation discoloured as well) in stage codes; in stage
        features also `degraded_slightly`; `masked` and `masked_widely` in stage inpainting.
    """
    if stage == "vqgan":
        return {}
    if stage == "inpainting":
        return {"masked": masked(clean, NARROW, draw), "masked_widely": masked(clean, WIDE, draw)}
    strongly = degraded(clean, STRONG, draw)
    if stage == "codes":
        return {"degraded": discoloured(strongly, draw) if task == "colourisation" else strongly}
    return {"degraded": strongly, "degraded_slightly": degraded(clean, SLIGHT, draw)}


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


def cropped(picture: np.ndarray, size: int, draw: Draw | None) -> np.ndarray:
    """A square (size, size, 3) from anywhere, or from the centre."""
    height, width = picture.shape[:2]
    if min(height, width) < size:
        raise BadRow(f"the picture has {width} x {height} pixels, fewer than the crop of {size} x {size}")
    spare = (height - size, width - size)
    top, left = (one // 2 if draw is None else int(draw.integers(one + 1)) for one in spare)
    return picture[top : top + size, left : left + size]
