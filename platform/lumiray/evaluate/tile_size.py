"""Which tiles fit into memory, and how far tiles are from the untiled result where they change it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from lumiray.errors import UserError
from lumiray.evaluate.tiling import Restore, Tiling, restore_tiled, tiling_of
from lumiray.system import System
from lumiray.train.meter import Meter

SIDES = (1024, 768, 512, 384, 256, 128, 64)  # that are tried where the result does not depend on them
PROBE = 64  # side of the picture by which memory is measured
SHARE = 0.5  # of free memory that a batch of tiles may take; convolutions take workspace that is not counted
MOST_AT_ONCE = 8  # tiles of a batch on a GPU; on CPUs one tile keeps all cores busy
GIB = 1 << 30


@dataclass(frozen=True)
class Memory:
    """What restoring takes and what is there.

    Args:
        per_pixel: bytes for one pixel of a tile, measured.
        free: bytes of the device, for one process.
    """

    per_pixel: float
    free: float

    def fits(self, pixels: int) -> bool:
        """Whether so many pixels can be restored at once."""
        return self.per_pixel * pixels <= SHARE * self.free

    def words(self, pixels: int) -> str:
        """What so many pixels take against what is there."""
        return f"about {self.per_pixel * pixels / GIB:.1f} GiB of the {self.free / GIB:.1f} that are free"


def measured_memory(system: System, device: torch.device, processes: int) -> Memory:
    """Measure by one small run; share what is free between so many processes of a machine."""
    side = -(-PROBE // system.multiple) * system.multiple
    meter = Meter(iter([*system.networks.parameters(), *system.networks.buffers()]))
    with torch.no_grad(), meter:
        system.restore(torch.zeros(1, 3, side, side))
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        import psutil

        free = psutil.virtual_memory().available / processes
    return Memory(meter.most / side**2, free)


def chosen_tiling(asked: str, system: System, memory: Memory, device: torch.device) -> Tiling | None:
    """The tiles of `--tile`: None for none, of the given side, or (`auto`) the largest that fit.

    Where the system sees the whole picture its tile has a fixed side, for the result depends on it: it does not follow
    from the memory of the machine that happens to do the work.

    Raises:
        UserError: the tiles do not fit, or are too small.
    """
    if asked == "none":
        return None
    if asked == "auto":
        sides = (system.tile,) if system.receptive_field is None else SIDES
        side = next((one for one in sides if memory.fits(one**2)), sides[-1])
    else:
        side = int(asked)
    tiling = tiling_of(side, system.receptive_field, system.multiple)
    if memory.per_pixel * tiling.side**2 > memory.free:
        raise UserError(
            f"--tile {asked}: a tile of {tiling.side} x {tiling.side} takes {memory.words(tiling.side**2)}. Give "
            "smaller tiles, as in --tile 128, fewer --workers, or more memory."
        )
    room = int(SHARE * memory.free / (memory.per_pixel * tiling.side**2))
    return replace(tiling, at_once=max(1, min(room, MOST_AT_ONCE)) if device.type == "cuda" else 1)


@dataclass(frozen=True)
class Difference:
    """Tiled against untiled, in levels of 255, over a part of a picture that needs two tiles."""

    mean: float
    most: float
    height: int
    width: int

    def __str__(self) -> str:
        return (
            f"tiled and untiled results differ by {self.mean:.2f} of 255 on average and {self.most:.1f} at most "
            f"(measured on the middle {self.width} x {self.height} of this picture)"
        )


def difference(restore: Restore, picture: np.ndarray, tiling: Tiling) -> Difference:
    """Restore the middle of a picture, larger than one tile, in tiles and in one piece.

    Args:
        picture: as `restore_tiled` takes it, larger than a tile.
    """
    height, width = picture.shape[:2]
    half = tiling.side // 2  # more than a tile along the longer side: two tiles, at the least cost
    down = min(height, tiling.side + half * (height > width))
    across = min(width, tiling.side + half * (height <= width))
    top, left = (height - down) // 2, (width - across) // 2
    part = picture[top : top + down, left : left + across]
    deep = part.astype(np.uint16) * (257 if part.dtype == np.uint8 else 1)  # so that rounding is no part of it
    tiled, whole = (restore_tiled(restore, deep, one).astype(np.float64) / 257 for one in (tiling, None))
    apart = np.abs(tiled - whole)
    return Difference(float(apart.mean()), float(apart.max()), down, across)
