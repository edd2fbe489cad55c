"""Pictures and boxes at the size that the network sees (card glip, Task and contract)."""

from __future__ import annotations

import numpy as np


def resized_shape(size: tuple[int, int], short: int, longest: int) -> tuple[int, int]:
    """Height and width with the short side at `short`, or less where the long one would pass `longest`.

    The ratio is kept, the long side cut off to whole pixels.
    """
    height, width = size
    low, high = min(size), max(size)
    if high / low * short > longest:
        short = max(1, round(longest * low / high))
    if short == low:
        return height, width
    other = int(short * high / low)
    return (other, short) if width < height else (short, other)


def resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 `(H, W, 3)` to `(height, width, 3)` by PIL's bilinear filter."""
    if picture.shape[:2] == (height, width):
        return picture
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.array(image.resize((width, height), Image.Resampling.BILINEAR))


def scale_boxes(boxes: np.ndarray, before: tuple[int, int], after: tuple[int, int]) -> np.ndarray:
    """Corners `(N, 4)` of a picture of one (height, width) in the same picture of another one."""
    across, down = after[1] / before[1], after[0] / before[0]
    return boxes * np.array([across, down, across, down])


def mirror_boxes(boxes: np.ndarray, width: int) -> np.ndarray:
    """Inclusive corners `(N, 4)` in the mirrored picture."""
    mirrored = boxes.copy()
    mirrored[:, 0], mirrored[:, 2] = width - 1 - boxes[:, 2], width - 1 - boxes[:, 0]
    return mirrored
