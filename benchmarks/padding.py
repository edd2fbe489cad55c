"""Padded pixels of a detector's micro-batches with and without `--data.bucket-window`, and what the window costs.

    python benchmarks/padding.py [--rows 118287] [--batch 64] [--micro-batch 4] [--window 32]

Sizes are drawn to look like COCO's (most pictures have a long side of 640 at 4:3 or 3:2, a quarter stand upright);
they are no measurement of COCO.  GLIP's resize brings them to a short side of 800, the long one at most 1333, and
sides of a micro-batch are filled up to a multiple of 32.  `share_off` and `share_on` are the padded part of all
pixels over an epoch; `ms_per_batch` is what the plan of a global batch takes, in order, on one core.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))
from job import ROOT, finish

sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models")]

if TYPE_CHECKING:
    import numpy as np

    from lumiray.data.plan import Plan


def coco_like(rows: int) -> np.ndarray:
    """Heights and widths, uint16 (rows, 2)."""
    import numpy as np

    generator = np.random.default_rng(0)
    common = generator.choice([480, 427, 426, 428, 425, 640, 360], rows, p=[0.42, 0.2, 0.08, 0.03, 0.03, 0.04, 0.2])
    other = generator.integers(240, 641, rows)
    short = np.where(generator.random(rows) < 0.7, common, other)
    sides = np.stack([short, np.full(rows, 640)], axis=1)
    upright = generator.random(rows) < 0.25
    sides[upright] = sides[upright, ::-1]
    return sides.astype(np.uint16)


def padded(plan: Plan, seen: np.ndarray) -> tuple[float, float]:
    """Share of padded pixels over an epoch, and milliseconds of planning per global batch."""
    import numpy as np

    from lumizoo.glip.pack import MULTIPLE

    kept = total = 0
    spent = 0.0
    for step in range(plan.steps_per_epoch):
        begin = time.perf_counter()
        rows = plan.batch(step).row
        spent += time.perf_counter() - begin
        sides = seen[rows].reshape(plan.num_micro_batches, plan.micro_batch_size, 2)
        most = -(-sides.max(axis=1) // MULTIPLE) * MULTIPLE
        kept += int(np.prod(sides, axis=2).sum())
        total += int(np.prod(most, axis=1).sum()) * plan.micro_batch_size
    return round(1 - kept / total, 4), round(1e3 * spent / plan.steps_per_epoch, 3)


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=118_287)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--window", type=int, default=32)
    given = parser.parse_args(arguments)
    import numpy as np

    from lumiray.data.buckets import Buckets
    from lumiray.data.plan import Plan, PlanSettings, Source
    from lumizoo.glip.resize import resized_shape

    shapes = coco_like(given.rows)
    seen = np.array([resized_shape((height, width), 800, 1333) for height, width in shapes.tolist()])
    plan = Plan([Source("coco", given.rows)], PlanSettings(), given.batch, given.micro_batch, seed=0)
    off, ms_off = padded(plan, seen)
    on, ms_on = padded(plan.bucketed(Buckets(given.window, (shapes,), plan.steps_per_epoch, 0)), seen)
    sizes = {"rows": given.rows, "batch": given.batch, "micro_batch": given.micro_batch, "window": given.window}
    found = {"share_off": off, "share_on": on, "ms_per_batch_off": ms_off, "ms_per_batch": ms_on}
    finish({"benchmark": "padding", **found, **sizes})


if __name__ == "__main__":
    main(sys.argv[1:])
