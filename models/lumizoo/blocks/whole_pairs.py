"""Pairs of a degraded picture and its reference: equal in size, and whole where they are evaluated."""

from __future__ import annotations

import numpy as np

from lumiray.data.records import pair_of
from lumiray.system import BadRow, Row

LEAST_SIDE = 11  # of pictures that are evaluated: the window of SSIM (card cidnet, Metrics; card pairlie, figures)


def decoded_pair(row: Row, least: int, purpose: str) -> dict[str, np.ndarray]:
    """Both pictures of a row.

    Args:
        row: parts `lq.EXTENSION` and `gt.EXTENSION`.
        least: pixels that each side must have.
        purpose: what needs them, for the message.

    Returns:
        `lq` and `gt`, uint8 RGB `(H, W, 3)`.

    Raises:
        BadRow: a half is missing or cannot be decoded, they differ in size, or are too small.
    """
    pair = {half: picture.decoded() for half, picture in pair_of(row).items()}
    (height, width), other = (picture.shape[:2] for picture in pair.values())
    if (height, width) != other:
        raise BadRow(f"lq has {width} x {height} pixels and gt {other[1]} x {other[0]}; a pair has one size")
    if min(height, width) < least:
        raise BadRow(f"the pair has {width} x {height} pixels, fewer than {purpose} of {least} x {least}")
    return pair


def whole_pair(row: Row) -> dict[str, np.ndarray]:
    """Both pictures of a row as evaluation compares them: `lq` and `gt`, uint8 RGB `(3, H, W)`.

    Raises:
        BadRow: as `decoded_pair`, and where SSIM's window does not fit in.
    """
    return channels_first(decoded_pair(row, LEAST_SIDE, "SSIM's window"))


def channels_first(pair: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Pictures `(H, W, 3)` as contiguous `(3, H, W)`."""
    return {half: np.ascontiguousarray(picture.transpose(2, 0, 1)) for half, picture in pair.items()}
