"""Two half-size pictures from one, without a pixel in common: noise that is independent between pixels is so between
the halves (Mansour & Heckel 2023; card zs-n2n, Pair down-sampler)."""

from __future__ import annotations

from torch import Tensor


def pair(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """The means of the diagonals of every 2 x 2 block, each channel on its own; an odd last row or column is dropped.

    Args:
        pictures: (..., H, W) with H, W at least 2, of any value range.

    Returns:
        the anti-diagonal (top right and bottom left) and the main diagonal (top left and bottom right), each
        (..., H // 2, W // 2); the variance of independent noise in them is half of that in the pictures.

    Raises:
        ValueError: a side is shorter than 2.
    """
    height, width = pictures.shape[-2:]
    if min(height, width) < 2:
        raise ValueError(f"{width} x {height} pixels are too few: a block has 2 x 2")
    whole = pictures[..., : height // 2 * 2, : width // 2 * 2]
    left, right = whole[..., 0::2], whole[..., 1::2]
    anti = (right[..., 0::2, :] + left[..., 1::2, :]) / 2
    main = (left[..., 0::2, :] + right[..., 1::2, :]) / 2
    return anti, main
