"""From a position to rows at the scale of ten billion: time and memory of one decoding process.

    python benchmarks/plan.py [--rows 10000000000] [--shards 1000000] [--batch 32768]

The driver makes the plan and the set of shards and pickles both, as it does for every run; a fresh process on one
core loads them and turns random steps, epochs apart, into shard and row of every member of the global batch.
`ms_per_batch` is the median (under 10 is the target), `memory_mb` what the process grew by (under 100).
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from job import ROOT, finish

sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models")]


def write_plan(file: Path, rows: int, shards: int, batch: int) -> None:
    """Pickle a plan and its shards: shards of unequal size, as a crawl leaves them."""
    import numpy as np

    from lumiray.data.index import ShardSet
    from lumiray.data.listing import Listed
    from lumiray.data.plan import Plan, PlanSettings, Source

    per_shard = np.random.default_rng(0).multinomial(rows, np.full(shards, 1 / shards))
    listed = [Listed(f"s3://bucket/set/{number:07d}.tar", 300_000_000, f"mark-{number}") for number in range(shards)]
    shard_set = ShardSet(listed, per_shard, [""] * shards, None)
    plan = Plan([Source("set", rows)], PlanSettings(), batch, min(batch, 512), seed=0)
    file.write_bytes(pickle.dumps((plan, shard_set)))


def measure(file: Path, steps: int) -> dict[str, float]:
    """Load, locate the rows of random steps, report time and memory; runs in a process of its own."""
    import numpy as np
    import psutil

    import lumiray.data.index
    import lumiray.data.plan  # noqa: F401  # imports are not the plan's memory

    os.sched_setaffinity(0, {0})
    process = psutil.Process()
    before = process.memory_info().rss
    begin = time.perf_counter()
    plan, shard_set = pickle.loads(file.read_bytes())
    shard_set.locate(plan.batch(0).row)
    load = time.perf_counter() - begin
    times = []
    for step in np.random.default_rng(1).integers(0, 5 * plan.steps_per_epoch, steps).tolist():
        begin = time.perf_counter()
        shard_set.locate(plan.batch(step).row)
        times.append(time.perf_counter() - begin)
    times.sort()
    return {
        "ms_per_batch": round(1e3 * times[len(times) // 2], 3),
        "ms_worst": round(1e3 * times[-1], 3),
        "load_s": round(load, 3),
        "memory_mb": round((process.memory_info().rss - before) / 1e6, 1),
        "pickled_mb": round(file.stat().st_size / 1e6, 1),
    }


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000_000)
    parser.add_argument("--shards", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=32_768)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.measure:
        finish(measure(given.measure, given.steps))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.pickle"
        write_plan(file, given.rows, given.shards, given.batch)
        command = [sys.executable, __file__, "--measure", str(file), "--steps", str(given.steps)]
        measured = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    sizes = {"rows": given.rows, "shards": given.shards, "batch": given.batch}
    finish({"benchmark": "plan", **json.loads(measured), **sizes})


if __name__ == "__main__":
    main(sys.argv[1:])
