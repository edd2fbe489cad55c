"""What a driver pays for many shards: its start and its memory, with 100 shards and with 100,000.

    python benchmarks/many_shards.py [--few 100] [--many 100000]

Shards are sparse files in a folder with the summary of their index, as an earlier run leaves it; nothing reads what
is in them.  A fresh process does what a job's driver does before it asks for workers: imports, checks, listing,
opening, the plan, the description that travels to the workers.  `ratio_start` and `ratio_memory` compare many with
few (at most 1.5 each is the target); the start of Ray, which is the same for both, is left out.
"""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from job import ROOT, finish

sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models")]

ROWS, BYTES = 10_000, 500_000_000  # of a shard
REPEATS = 3


def write_shards(folder: Path, count: int) -> None:
    """Sparse files, and what the catalog of their folder says of them."""
    from lumiray import storage
    from lumiray.data import catalog

    folder.mkdir(parents=True)
    for number in range(count):
        with (folder / f"{number:06d}.tar").open("wb") as file:
            file.truncate(BYTES)
    entries = storage.list_entries(str(folder))
    known = {one.name: catalog.Known(one.name, one.size, one.mark, ROWS, one.name) for one in entries}
    catalog.put_summary(str(folder / catalog.FOLDER), known)


def start(folder: str) -> dict[str, float]:
    """Do what a driver does, in this process."""
    begin = time.perf_counter()
    import psutil
    import ray.train.torch  # noqa: F401  # as the driver does

    from lumiray.command import parse
    from lumiray.data.parallel import open_shards
    from lumiray.train.checks import check_job
    from lumiray.train.launch import make_stream

    imported = time.perf_counter()
    options = ("--shards", folder, "--output", f"{folder}/run", "--epochs", "1", "--warmup", "0")
    checked = check_job(parse("clip", options).job)
    stream = make_stream(checked, open_shards)
    stream.sources[0].locate(stream.plan.batch(0).row)
    travels = len(pickle.dumps(stream))
    return {
        "start_s": time.perf_counter() - begin,
        "imports_s": imported - begin,
        "memory_mb": psutil.Process().memory_info().rss / 1e6,
        "travels_mb": travels / 1e6,
    }


def measure(folder: Path) -> dict[str, float]:
    """The fastest of a few fresh processes."""
    found = []
    for _ in range(REPEATS):
        done = subprocess.run(
            [sys.executable, __file__, "--start", str(folder)], stdout=subprocess.PIPE, text=True, check=True
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return {name: round(value, 3) for name, value in min(found, key=lambda one: one["start_s"]).items()}


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--few", type=int, default=100)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--start", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.start:
        print(json.dumps(start(given.start)))
        return
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in (given.few, given.many):
            write_shards(Path(folder) / str(count), count)
            found[count] = measure(Path(folder) / str(count))
            print(f"{count:7d} shards: {found[count]}", flush=True)
    few, many = found[given.few], found[given.many]
    finish(
        {
            "benchmark": "many_shards",
            "ratio_start": round(many["start_s"] / few["start_s"], 3),
            "ratio_memory": round(many["memory_mb"] / few["memory_mb"], 3),
            "shards": found,
        }
    )


if __name__ == "__main__":
    main(sys.argv[1:])
