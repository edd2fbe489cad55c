"""A picture restored tile by tile: overlapping, feathered, in memory that one batch of tiles and one row of them bound.

A pixel near the edge of a tile lacks surroundings there.  So tiles overlap: the outer part of an overlap is thrown
away (all that the network's receptive field could spoil, where it is known), and over the rest one tile fades into
the next.  With a bounded receptive field both sides of that fade are equal to the untiled result, and so is their mix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lumiray.data.picture import luma
from lumiray.errors import UserError

Restore = Callable[[Tensor], Tensor]  # RGB in [0, 1], fp32 (B, 3, H, W), to the same
FADE = 16  # pixels over which tiles fade into each other, at least
SHARE = 4  # of a tile overlaps the next where the whole picture is seen: one part in so many


@dataclass(frozen=True)
class Tiling:
    """How pictures are cut.

    Args:
        side: of the square tiles, a multiple of `multiple`.
        margin: pixels at a cut edge that are thrown away.
        fade: pixels after the margin over which a tile fades in.
        multiple: tiles begin at multiples of this.
        at_once: tiles of a batch.
    """

    side: int
    margin: int
    fade: int
    multiple: int = 1
    at_once: int = 1

    @property
    def stride(self) -> int:
        """From the beginning of a tile to that of the next."""
        return self.side - 2 * self.margin - self.fade

    def count(self, height: int, width: int) -> int:
        """Tiles of a picture."""
        return len(spans(height, self)) * len(spans(width, self))


def tiling_of(side: int, receptive_field: int | None, multiple: int) -> Tiling:
    """The cut for tiles of a side, which is rounded up to a multiple.

    Args:
        receptive_field: pixels of a side that one restored pixel depends on; None where that is the whole picture.

    Raises:
        UserError: the tiles are too small to leave anything but overlap.
    """
    side = _up(side, multiple)
    if receptive_field is None:
        overlap = _up(side // SHARE, multiple)
        margin = overlap // 4
        fade = overlap - 2 * margin
    else:
        margin, fade = _up(receptive_field // 2, multiple), _up(FADE, multiple)
    tiling = Tiling(side, margin, fade, multiple)
    if tiling.stride < multiple:
        least = _up(2 * margin + fade + multiple, multiple)
        raise UserError(f"--tile {side}: tiles overlap by {side - tiling.stride} pixels; they need at least {least}.")
    return tiling


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


@dataclass(frozen=True)
class Span:
    """A tile's place along one axis, and its share of each pixel there, float32 `(stop - start,)`."""

    start: int
    stop: int
    share: Tensor


def spans(length: int, tiling: Tiling | None) -> list[Span]:
    """Tiles along an axis, in order; their shares add up to 1 at every pixel.  Without a tiling there is one.

    The last one ends with the picture and is as large as the others, but for what brings its beginning to a multiple:
    there a network pads the picture's end as it would without tiles.
    """
    if tiling is None or length <= tiling.side:
        return [Span(0, length, torch.ones(length))]
    last = _up(length - tiling.side, tiling.multiple)
    starts = [*range(0, last, tiling.stride), last]
    ramps = []
    for start in starts:
        stop = min(start + tiling.side, length)
        ramp = torch.ones(stop - start)
        rising = ((torch.arange(stop - start) - tiling.margin + 0.5) / tiling.fade).clamp(0, 1)
        if start > 0:
            ramp *= rising
        if stop < length:
            ramp *= rising.flip(0)
        ramps.append((start, stop, ramp))
    total = torch.zeros(length)
    for start, stop, ramp in ramps:
        total[start:stop] += ramp
    return [Span(start, stop, ramp / total[start:stop]) for start, stop, ramp in ramps]


@torch.no_grad()
def restore_tiled(restore: Restore, picture: np.ndarray, tiling: Tiling | None, truncate: bool = False) -> np.ndarray:
    """Restore a picture of any size, tile by tile.

    Besides the picture and its result, memory holds one batch of tiles and one row of restored ones.

    Args:
        picture: uint8 or uint16, `(H, W, 3)` RGB or `(H, W, 1)` grey, which is restored as RGB and made grey again.
        tiling: None restores it in one piece.
        truncate: levels are cut off, not rounded.

    Returns:
        of the same shape and kind.
    """
    height, width, channels = picture.shape
    rows, columns = spans(height, tiling), spans(width, tiling)
    result = np.empty_like(picture)
    waiting = torch.zeros(channels, 0, width)  # restored rows that the next row of tiles still adds to
    for number, row in enumerate(rows):
        band = torch.zeros(channels, row.stop - row.start, width)
        band[:, : waiting.shape[1]] = waiting
        for some in _batches(columns, tiling.at_once if tiling else 1):
            tiles = torch.stack([_pixels(picture[row.start : row.stop, one.start : one.stop]) for one in some])
            restored = restore(tiles.expand(-1, 3, -1, -1)).cpu()
            for column, tile in zip(some, restored if channels == 3 else luma(restored), strict=True):
                band[:, :, column.start : column.stop] += tile * (row.share[:, None] * column.share)
        end = rows[number + 1].start if number + 1 < len(rows) else height
        result[row.start : end] = _levels(band[:, : end - row.start], picture.dtype, truncate)
        waiting = band[:, end - row.start :].clone()
        del band
    return result


def _batches(columns: Sequence[Span], at_once: int) -> Iterator[list[Span]]:
    """Neighbours of one width, at most so many together."""
    some: list[Span] = []
    for one in columns:
        if some and (len(some) == at_once or len(one.share) != len(some[0].share)):
            yield some
            some = []
        some.append(one)
    yield some


def _pixels(levels: np.ndarray) -> Tensor:
    """(H, W, C) of levels to fp32 (C, H, W) in [0, 1]."""
    top = np.iinfo(levels.dtype).max
    return torch.from_numpy(levels.astype(np.float32)).div_(top).permute(2, 0, 1)


def _levels(pixels: Tensor, kind: np.dtype, truncate: bool) -> np.ndarray:
    """Back: fp32 (C, H, W), which is written over, to (H, W, C) of levels."""
    pixels.clamp_(0, 1).mul_(np.iinfo(kind).max)
    if not truncate:
        pixels.round_()
    return pixels.permute(1, 2, 0).numpy().astype(kind)
