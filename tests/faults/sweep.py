#!/usr/bin/env python
"""Kill runs at random steps, in random ways, on random numbers of workers; check every row of each; write the counts.

    python tests/faults/sweep.py [--kills 20] [--seed 0] [--output .cache/faults.json]

A run is killed five times.  The file holds every kill with its step, and what was counted; the exit code is 1 if a
row was lost or came twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "platform"), str(ROOT / "models")]
os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
os.environ["PATH"] = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]  # ninja

from recorded_run import STEPS_PER_EPOCHS, THIRD_PARTY, VICTIMS, RecordedRun

KILLS_OF_A_RUN = 5
WORKERS = (1, 2, 3)


def swept(folder: Path, address: str, kills: int, draw: random.Random) -> dict[str, object]:
    """One run with its kills."""
    run = RecordedRun(folder, address)
    begin = time.monotonic()
    run.start(draw.choice(WORKERS))
    for step in sorted(draw.sample(range(2, STEPS_PER_EPOCHS - 10), kills)):
        run.kill(draw.choice(VICTIMS), step, draw.choice(WORKERS))
    run.finish()
    return run.check() | {"seconds": round(time.monotonic() - begin), "killed": run.kills}


def main(arguments: list[str]) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / ".cache" / "faults.json")
    given = parser.parse_args(arguments)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (THIRD_PARTY, os.environ.get("PYTHONPATH"))))
    import ray

    context = ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="error")
    draw, runs, failed = random.Random(given.seed), [], 0
    while sum(len(one["killed"]) for one in runs) < given.kills:
        with tempfile.TemporaryDirectory(prefix="lumiray-faults-") as folder:
            try:
                runs.append(swept(Path(folder), context.address_info["gcs_address"], KILLS_OF_A_RUN, draw))
            except AssertionError as error:
                failed += 1
                runs.append({"failed": str(error), "killed": [None] * KILLS_OF_A_RUN})
        print(json.dumps(runs[-1]), flush=True)
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps({"seed": given.seed, "failed": failed, "runs": runs}, indent=1))
    print(f"{sum(len(one['killed']) for one in runs)} kills in {len(runs)} runs, {failed} failed; {given.output}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
