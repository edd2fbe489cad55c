"""What the machine's cores can do: read, decode, crop, resize and flip in a plain loop, nothing handed over.

    python benchmarks/loader_limit.py SHARDS ROWS PROCESSES

So many processes, each over its share of the rows, with the product's functions (OpenCV decodes) and with torchvision's
decoder in their place.  The faster of the two is the limit.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np

from job import finish
from loader_sides import Work  # puts the sources on the path

READ_ROWS = 16  # at a time
WARM_ROWS = 32


def with_torchvision(data: bytes, draw: np.random.Generator) -> Any:
    """As `cropped`, decoded by torchvision; uint8 tensor (3, 224, 224)."""
    import torch
    from cropped.system import RATIO, SCALE, SIZE
    from torchvision.io import ImageReadMode, decode_jpeg

    from lumiray.data.picture import crop_box

    pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    top, left, height, width = crop_box(pixels.shape[1], pixels.shape[2], SCALE, RATIO, draw)
    cut = pixels[None, :, top : top + height, left : left + width]
    square = torch.nn.functional.interpolate(cut, size=(SIZE, SIZE), mode="bicubic", antialias=True)[0]
    return square.flip(-1) if draw.random() < 0.5 else square


def loop(work: Work, number: int, decoder: str, ready: Any, ends: Any) -> None:
    """One process: every `processes`-th run of rows, begun when all are ready."""
    import torch
    from cropped.system import cropped

    from lumiray.data.index import ShardSet

    torch.set_num_threads(1)
    made: Callable[[bytes, np.random.Generator], Any] = cropped if decoder == "opencv" else with_torchvision
    shards, draw = ShardSet.open(work.urls), np.random.default_rng(number)

    def run(first: int, last: int) -> None:
        for start in range(first, last, READ_ROWS):
            for row in shards.read(np.arange(start, min(last, start + READ_ROWS)) % shards.num_rows):
                made(row.parts["jpg"], draw)  # type: ignore[union-attr]  # the rows were written for this

    run(0, WARM_ROWS)
    ready.wait()
    run(work.rows * number // work.processes, work.rows * (number + 1) // work.processes)
    ends.put(time.time())


def rate(work: Work, decoder: str) -> float:
    """Rows per second of all processes, until the last has ended."""
    context = multiprocessing.get_context("spawn")
    ready, ends = context.Barrier(work.processes + 1), context.Queue()
    processes = [
        context.Process(target=loop, args=(work, number, decoder, ready, ends), daemon=True)
        for number in range(work.processes)
    ]
    for process in processes:
        process.start()
    ready.wait()
    begin = time.time()
    end = max(ends.get() for _ in processes)
    for process in processes:
        process.join()
    return work.rows / (end - begin)


def main(arguments: list[str]) -> None:
    """Command line; the last line has the rate of each decoder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("rows", type=int)
    parser.add_argument("processes", type=int)
    given = parser.parse_args(arguments)
    work = Work(given.shards, given.rows, READ_ROWS, given.processes)
    finish({decoder: rate(work, decoder) for decoder in ("opencv", "torchvision")})


if __name__ == "__main__":
    main(sys.argv[1:])
