"""A large picture restored in tiles by cidnet against the bare network on the same tiles, already in memory.

    python benchmarks/restore_throughput.py [--width 3840] [--height 2160] [--tile auto] [--rounds 3]

Both sides run in one process on the same cores and alternate; the tiled side cuts, feathers, joins and rounds, the bare
side calls the network on tensors that are there.  `ratio_tiled` is the median of bare time over tiled time (at least
0.95 is the target).  `memory_mb` is what the process grew by at its peak while restoring in tiles, `memory_batch_mb`
while the bare network did a single batch before.  Weights are random: the time does not depend on them.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))
from job import ROOT, finish
from photographs import photographs

sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models")]

if TYPE_CHECKING:
    import numpy as np
    import torch

    from lumiray.evaluate.tiling import Tiling


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def peak_mb() -> float:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def batches_of(picture: np.ndarray, tiling: Tiling) -> list[torch.Tensor]:
    """The tiles of a picture uint8 (H, W, 3) as the network takes them, fp32 (1, 3, side, side), in memory."""
    import numpy as np
    import torch

    from lumiray.evaluate.tiling import spans

    found = []
    for row in spans(picture.shape[0], tiling):
        for column in spans(picture.shape[1], tiling):
            levels = picture[row.start : row.stop, column.start : column.stop].astype(np.float32)
            tile = torch.from_numpy(levels / 255).permute(2, 0, 1)[None].contiguous()
            lacking = (0, -tile.shape[3] % tiling.multiple, 0, -tile.shape[2] % tiling.multiple)
            found.append(torch.nn.functional.pad(tile, lacking, "reflect"))
    return found


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--width", type=int, default=3840)
    parser.add_argument("--height", type=int, default=2160)
    parser.add_argument("--tile", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)

    import numpy as np
    import psutil
    import torch

    import lumizoo
    from lumiray.evaluate.tile_size import chosen_tiling, measured_memory
    from lumiray.evaluate.tiling import restore_tiled

    _, photograph = photographs()[0]
    picture = np.asarray(photograph.resize((given.width, given.height))) // 4
    torch.manual_seed(0)
    system = lumizoo.load("cidnet")
    network, device = system.networks["cidnet"], torch.device("cpu")
    memory = measured_memory(system, device, 1)
    tiling = chosen_tiling(given.tile, system, memory, device)
    if tiling is None or tiling.count(given.height, given.width) == 1:
        sys.exit("the picture fits into one tile: give a larger one, or a smaller --tile")
    tiles = batches_of(picture, tiling)
    before = psutil.Process().memory_info().rss / (1 << 20)

    def bare() -> None:
        with torch.no_grad():
            for one in tiles:
                network(one)

    def tiled() -> None:
        restore_tiled(system.restore, picture, tiling, system.truncates)

    with torch.no_grad():
        network(tiles[0])
    batch_mb = peak_mb() - before
    tiled()  # warm, and alone with its memory
    tiled_mb = peak_mb() - before
    bare_s: list[float] = []
    tiled_s: list[float] = []
    for _ in range(given.rounds):
        bare_s.append(seconds(bare))
        tiled_s.append(seconds(tiled))
        print(f"bare {bare_s[-1]:.2f} s, tiled {tiled_s[-1]:.2f} s", flush=True)
    ratios = [one / other for one, other in zip(bare_s, tiled_s, strict=True)]
    finish(
        {
            "benchmark": "restore_throughput",
            "size": [given.width, given.height],
            "tile": tiling.side,
            "tiles": len(tiles),
            "threads": torch.get_num_threads(),
            "bare_s": [round(one, 3) for one in bare_s],
            "tiled_s": [round(one, 3) for one in tiled_s],
            "ratio_tiled": round(statistics.median(ratios), 4),
            "ratios": [round(one, 4) for one in ratios],
            "memory_mb": round(tiled_mb, 1),
            "memory_batch_mb": round(batch_mb, 1),
            "bytes_per_pixel": round(memory.per_pixel),
        }
    )


if __name__ == "__main__":
    main(sys.argv[1:])
