"""Exposures of a dark scene: some of them, and one crop of all (card pairlie, Training)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lumiray.data.records import StoredPicture, exposures_of
from lumiray.system import BadRow, Row


def prepare_exposures(row: Row, count: int, size: int, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw different exposures of a scene, all orders alike, and cut one random square out of each.

    The order matters, for only the first one is in every term of the loss.

    Args:
        row: parts `0.EXTENSION`, `1.EXTENSION`, ..., two or more.
        count: K, how many are drawn.
        size: S, side of the crop.
        draw: the generator of training.

    Returns:
        `exposures`, uint8 RGB `(K, 3, S, S)`.

    Raises:
        BadRow: there are too few, one cannot be decoded, they differ in size, or are smaller than the crop.
    """
    scene = exposures_of(row)
    if len(scene) < count:
        raise BadRow(f"the scene has {len(scene)} exposures, fewer than the {count} of --exposures: ask for fewer")
    height, width = common_size(scene)
    if min(height, width) < size:
        raise BadRow(
            f"the scene has {width} x {height} pixels, fewer than the crop of {size} x {size}: lower --crop-size"
        )
    chosen = draw.choice(len(scene), count, replace=False)  # in random order
    top, left = int(draw.integers(height - size + 1)), int(draw.integers(width - size + 1))
    crops = [scene[number].decoded()[top : top + size, left : left + size] for number in chosen]
    return {"exposures": np.ascontiguousarray(np.stack(crops).transpose(0, 3, 1, 2))}


def common_size(scene: Sequence[StoredPicture]) -> tuple[int, int]:
    """Height and width of all exposures of a scene, also of those that are not drawn, from their headers.

    Raises:
        BadRow: they differ, or one is no picture.
    """
    first, *others = scene
    height, width = first.size()
    for other in others:
        if other.size() != (height, width):
            raise BadRow(
                f"{first.part} has {width} x {height} pixels and {other.part} {other.size()[1]} x {other.size()[0]}: "
                "align the exposures of a scene and cut them to one size"
            )
    return height, width
