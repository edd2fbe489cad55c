"""A picture whose levels are no colours, but numbers of classes."""

from __future__ import annotations

import numpy as np

from lumiray.data.decode import MAX_PIXELS, opened
from lumiray.system import BadRow

_BITS = 24  # place in a PNG of the bits of a channel


def decode_class_numbers(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The numbers that a palette or grey PNG stores, never its colours.

    Returns:
        uint8, or uint16 of 16-bit grey; (H, W).

    Raises:
        BadRow: no PNG, broken, cut off, of colours, or larger than `max_pixels`.
    """
    with opened(data, max_pixels, ("PNG",)) as image:
        if image.mode not in ("1", "L", "P", "I;16"):
            raise BadRow(f"numbers of classes are a palette's or grey, and the picture is {image.mode}")
        numbers = np.array(image)
        if image.mode == "I;16":
            return numbers.astype(np.uint16)
        if image.mode == "L" and data[_BITS] < 8:  # PIL spreads grey of 2 and 4 bits over 0 to 255
            numbers //= 255 // (2 ** data[_BITS] - 1)
        return numbers.astype(np.uint8)


def unlabelled(numbers: np.ndarray) -> int:
    """The number that says that a pixel has no class: the largest of its kind."""
    return int(np.iinfo(numbers.dtype).max)
