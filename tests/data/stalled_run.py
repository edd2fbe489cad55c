"""A stream into a small object store, whose consumer stands still for a while: what its processes hold meanwhile.

    python tests/data/stalled_run.py FOLDER STALL_S

The last line is JSON: megabytes of the store's objects, of those that were spilled, and of the memory of each kind of
process (its own, without what it shares), after steady steps, in the middle of the stall, and at its end.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
PLACES = [str(HERE.parents[2] / "platform"), str(HERE.parents[2] / "models"), str(HERE.with_name("third_party"))]
sys.path[:0] = PLACES
os.environ["PYTHONPATH"] = os.pathsep.join(PLACES)  # for Ray's workers

STORE_BYTES = 1000 << 20
ROWS, MICRO_BATCH, BATCH = 4096, 128, 256
BALLAST = 147 << 10  # bytes of a row, as of a picture of 224 x 224: a block has 19 MB
STEADY_STEPS = 80  # they bring three times what the store holds
CALM_S = 5.0  # until the decoders have filled their window


def memory_mb() -> dict[str, float]:
    """Memory of this process and of those of its cluster, summed up by kind."""
    import psutil

    own = psutil.Process()
    found = {"driver": own}
    total: dict[str, float] = {}
    for name, process in [*found.items(), *((_kind(child), child) for child in own.children(recursive=True))]:
        try:
            told = process.memory_info()
        except psutil.NoSuchProcess:
            continue
        total[name] = total.get(name, 0.0) + (told.rss - told.shared) / 1e6
    return {name: round(value, 1) for name, value in total.items()}


def _kind(process: Any) -> str:
    import psutil

    try:
        words = process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return "gone"
    title = words[0] if words else ""
    return title.split(".")[0].removeprefix("ray::") if title.startswith("ray::") else "runtime"


def store() -> dict[str, float]:
    """Megabytes of objects in the store of the one node, and of those that were ever spilled."""
    import ray
    from ray._private.internal_api import node_stats

    node = ray.nodes()[0]
    told = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False).store_stats
    used, spilled = told.object_store_bytes_used / 1e6, told.spilled_bytes_total / 1e6
    return {"used_mb": round(used, 1), "spilled_mb": round(spilled, 1)}


def main(folder: Path, stall_s: float) -> None:
    """Steady steps, a stall, and steps again."""
    import ray
    import torch
    from numbered import shards
    from numbered.config import NumberedConfig

    from lumiray.data.entries import TRAIN, StreamSpec
    from lumiray.data.feed import Feed
    from lumiray.data.index import ShardSet
    from lumiray.data.listing import find
    from lumiray.data.plan import Plan, PlanSettings, Source
    from lumiray.data.stream import Decoders, items

    shards.write_shards(folder / "shards", [ROWS], ())
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=STORE_BYTES,
        include_dashboard=False,
        logging_level="error",
    )
    spec = StreamSpec(
        slug="numbered",
        system_config=NumberedConfig(ballast_bytes=BALLAST),
        stage="look",
        plan=Plan((Source("shards", ROWS),), PlanSettings(4, 64), BATCH, MICRO_BATCH, seed=0),
        sources=(ShardSet.open(find(str(folder / "shards"))),),
        seed=0,
        total_steps=1_000_000,
    )
    decoders = Decoders(object_store_bytes=STORE_BYTES // 2)
    feed = Feed(items(spec, 0, 1, 0, decoders), BATCH, torch.device("cpu"))
    used = 0.0
    for step in range(STEADY_STEPS):
        feed.take(TRAIN, step)
        used = max(used, store()["used_mb"]) if step % 8 == 0 else used
    found: dict[str, Any] = {"steady": store() | {"used_mb": used}}
    time.sleep(CALM_S)
    found["calm"] = store() | {"memory_mb": memory_mb()}
    time.sleep(stall_s)
    found["stalled"] = store() | {"memory_mb": memory_mb()}
    for step in range(STEADY_STEPS, STEADY_STEPS + 32):
        feed.take(TRAIN, step)
    found["after"] = store()
    feed.close()
    ray.shutdown()
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
