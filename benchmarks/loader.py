"""Pictures per second of the product's stream against other loaders, and against what the cores can do.

    python benchmarks/loader.py [--rows 20000] [--rounds 3]

Same shards (real photographs, 512 x 384 JPEG), transform (random resized crop to 224, bicubic with antialiasing, flip,
uint8 tensor) and number of decoding processes, all costs included: read, decode, transform, transport into the
training process, collated tensors there.  webdataset with PIL transforms as open_clip does them may have another
number of workers: the best of a printed sweep.  Each side runs in a process of its own, and only takes batches:

- `steady`: rate over the middle of the run, after its first quarter (what was decoded before the first take is used up
  by then) and before its last tenth (where workers run out of work);
- `total`: rate over the whole run, from the start of the process to the last batch, imports and start-up counted.

`ratio_webdataset_steady` (at least 3) and `ratio_webdataset_total` (at least 2) compare these.  `ratio_limit` (at least
0.9) is our steady rate over that of a plain loop in as many processes that hands nothing over (loader_limit.py).
`ratio_reduced` (at least 1.4) is reduced-size against full-size decoding of collages of photographs of 2048 x 1536
pixels, steady; `psnr_mean_db` (at least 38) and `psnr_worst_db` compare their pixels.  Other loaders run once, for
their numbers.  The index of the shards is made with them, as a set's other files are.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np

from job import PHOTOGRAPHS, ROOT, finish
from loader_formats import MODULES, copied, missing
from loader_sides import Work  # puts the sources on the path
from photographs import write_shards

COLLAGES = ROOT / ".cache" / "benchmarks" / "collages"
NUM_PHOTOGRAPHS, NUM_COLLAGES = 4000, 400  # distinct rows; a run goes over them again and again
BATCH, COLLAGE_BATCH = 256, 32
SWEEP = (1, 2, 3, 4)  # webdataset's workers
OTHERS = ("webdataset-untouched", "ray-data", *MODULES)


@dataclass(frozen=True)
class Rates:
    """Pictures per second of one run."""

    steady: float
    total: float


def output_of(script: str, *arguments: object) -> dict[str, Any]:
    """The last line of a script of this folder; stops the benchmark with its words if it fails."""
    command = [sys.executable, str(Path(__file__).with_name(script)), *map(str, arguments)]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(side: str, work: Work) -> Rates:
    """Run a side."""
    script = "loader_formats.py" if side in MODULES else "loader_sides.py"
    begin = time.time()
    taken = output_of(script, side, work.shards, work.rows, work.batch, work.processes)["taken"]
    return rates(taken, begin, work)


def rates(taken: list[float], begin: float, work: Work) -> Rates:
    """From the times at which batches were there, at least three.

    Workers of a DataLoader have their batches at about the same time: the steady rate is one of whole such rounds.

    Args:
        begin: when the process was started, on the same clock.
    """
    first, last = len(taken) // 4, len(taken) * 9 // 10 - 1
    batches = (last - first) // work.processes * work.processes or last - first  # less than a round: a smoke run
    steady = work.batch * batches / (taken[first + batches] - taken[first])
    return Rates(steady, work.batch * len(taken) / (taken[-1] - begin))


def sweep(work: Work) -> int:
    """webdataset's best number of workers; every one printed."""
    found = {}
    for workers in SWEEP:
        found[workers] = measured("webdataset", Work(work.shards, work.rows, work.batch, workers)).steady
        print(f"  webdataset, {workers} workers: {found[workers]:.0f}/s", flush=True)
    return max(found, key=lambda workers: found[workers])


def limit(work: Work) -> float:
    """Pictures per second of the plain loop, with the faster decoder."""
    return max(output_of("loader_limit.py", work.shards, work.rows // 4, work.processes).values())


def against_webdataset(work: Work, rounds: int) -> dict[str, Any]:
    """The stream, webdataset at its best, and the plain loop, in turn."""
    workers = sweep(Work(work.shards, work.rows // 2, work.batch, work.processes))
    peer = Work(work.shards, work.rows, work.batch, workers)
    ours: list[Rates] = []
    theirs: list[Rates] = []
    limits: list[float] = []
    for number in range(rounds):
        turns = [
            lambda: theirs.append(measured("webdataset", peer)),
            lambda: ours.append(measured("ours", work)),
            lambda: limits.append(limit(work)),
        ]
        for turn in turns if number % 2 == 0 else reversed(turns):  # no side is always the first
            turn()
        print(
            f"ours {ours[-1].steady:.0f}/s ({ours[-1].total:.0f} with the start), webdataset {theirs[-1].steady:.0f} "
            f"({theirs[-1].total:.0f}), plain loop {limits[-1]:.0f}",
            flush=True,
        )
    pairs = list(zip(ours, theirs, strict=True))
    return {
        "ratio_webdataset_steady": median([one.steady / other.steady for one, other in pairs]),
        "ratio_webdataset_total": median([one.total / other.total for one, other in pairs]),
        "ratio_limit": median([one.steady / most for one, most in zip(ours, limits, strict=True)]),
        "ours_per_s": [round(one.steady, 1) for one in ours],
        "ours_total_per_s": [round(one.total, 1) for one in ours],
        "webdataset_per_s": [round(one.steady, 1) for one in theirs],
        "webdataset_total_per_s": [round(one.total, 1) for one in theirs],
        "webdataset_workers": workers,
        "limit_per_s": [round(one, 1) for one in limits],
    }


def reduced_decoding(work: Work, rounds: int) -> dict[str, Any]:
    """The stream with full-size and with reduced-size decoding, in turn, and how far their pixels differ."""
    found: dict[str, list[float]] = {"ours": [], "ours-reduced": []}
    for number in range(rounds):
        for side in found if number % 2 == 0 else reversed(found):
            found[side].append(measured(side, work).steady)
        print(f"collages: {found['ours'][-1]:.0f}/s, reduced {found['ours-reduced'][-1]:.0f}/s", flush=True)
    full, reduced = found.values()
    apart = psnr_db(work)
    return {
        "ratio_reduced": median([one / other for one, other in zip(reduced, full, strict=True)]),
        "psnr_mean_db": round(statistics.mean(apart), 2),
        "psnr_worst_db": round(min(apart), 2),
        "collages_full_per_s": [round(one, 1) for one in full],
        "collages_reduced_per_s": [round(one, 1) for one in reduced],
    }


def psnr_db(work: Work) -> list[float]:
    """Of every row's crop, reduced-size against full-size decoding with the same random choices."""
    from cropped.system import cropped

    from lumiray.data.index import ShardSet

    shards, found = ShardSet.open(work.urls), []
    for number in range(shards.num_rows):
        data = shards.read(np.array([number]))[0].parts["jpg"]  # type: ignore[union-attr]
        exact, reduced = (cropped(data, np.random.default_rng(number), one).astype(float) for one in (False, True))
        found.append(float(10 * np.log10(255**2 / np.mean((exact - reduced) ** 2))))
    print(f"collages: PSNR mean {statistics.mean(found):.1f} dB, worst {min(found):.1f} dB", flush=True)
    return found


def others(work: Work) -> dict[str, Any]:
    """Steady and total rate of loaders that no target compares with; a word for one that is not installed."""
    found: dict[str, Any] = {}
    for side in OTHERS:
        if missing(side):
            found[side] = "not installed"
        else:
            shards = copied(side, work.shards) if side in MODULES else work.shards
            done = measured(side, Work(shards, work.rows, work.batch, work.processes))
            found[side] = {"per_s": round(done.steady, 1), "total_per_s": round(done.total, 1)}
        print(f"  {side}: {found[side]}", flush=True)
    return found


def median(values: list[float]) -> float:
    """Rounded as results are."""
    return round(statistics.median(values), 3)


def prepare(rows: int, collages: int) -> None:
    """Write what is not there yet, and its index."""
    from lumiray.data.index import ShardSet

    for shards in (
        write_shards(PHOTOGRAPHS, rows, (512, 384)),
        write_shards(COLLAGES, collages, (2048, 1536), rows_per_shard=50, collages=True),
    ):
        ShardSet.open([str(shard) for shard in shards])


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000, help="pictures of a run")
    parser.add_argument("--collage-rows", type=int, default=3200, help="of a run over large pictures")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    cores = len(os.sched_getaffinity(0))
    prepare(NUM_PHOTOGRAPHS, NUM_COLLAGES)
    photographs = Work(PHOTOGRAPHS, given.rows, BATCH, cores)
    found = against_webdataset(photographs, given.rounds)
    found |= reduced_decoding(Work(COLLAGES, given.collage_rows, COLLAGE_BATCH, cores), given.rounds)
    finish({"benchmark": "loader", "processes": cores, **found, "others": others(photographs)})


if __name__ == "__main__":
    main(sys.argv[1:])
