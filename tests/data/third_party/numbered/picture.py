"""Pictures that carry a number of 24 bits in blocks of 4 x 4 pixels, legible after noise and darkening."""

from __future__ import annotations

import io

import numpy as np

BLOCK, DOWN, ACROSS = 4, 4, 6


def drawn(number: int) -> bytes:
    """A PNG of 24 x 16 pixels, black where a bit is 0 and white where it is 1."""
    from PIL import Image

    bits = (number >> np.arange(DOWN * ACROSS) & 1).reshape(DOWN, ACROSS)
    pixels = np.kron(bits, np.full((BLOCK, BLOCK), 255)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def numbers_in(pixels: np.ndarray) -> np.ndarray:
    """The numbers that pictures uint8 (B, 3, 16, 24) carry, int64 (B,)."""
    blocks = pixels.reshape(len(pixels), 3, DOWN, BLOCK, ACROSS, BLOCK).mean(axis=(1, 3, 5))
    bits = (blocks > 100).reshape(len(pixels), -1).astype(np.int64)
    return (bits << np.arange(DOWN * ACROSS)).sum(axis=1)
