"""How well an epoch is shuffled, and what that costs in range reads: the dial explained.

    python benchmarks/shuffle_quality.py [--shards 400] [--rows-per-shard 2500] [--batch 4096]

Two figures of quality, for several settings of the plan and for webdataset's shuffle of shards followed by its
buffer of 5,000 rows (its own code, on numbers in place of pictures):

* `neighbours`  how far apart two neighbours of one shard land, median, share of the epoch (a perfect shuffle: 0.29);
* `from_one`    the largest part of a batch that comes from one shard, mean (perfect: a little over batch / rows).

and one of cost: `reads_per_row`, range reads that one rank makes per row when it reads its rows of a batch in the
blocks that the stream decodes, ranges joined as the reader joins them.  A reader of whole shards (`--data.read shard`,
webdataset) makes hardly any: ours a request for every 16 MiB of a shard, from each host.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from job import ROOT, finish

sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models")]

from lumiray.data.entries import READ_ROWS
from lumiray.data.plan import Order
from lumiray.data.shard_order import ShardOrder

SETTINGS = ((1, 4096), (4, 4096), (16, 512), (16, 4096), (16, 65536), (64, 4096), (256, 4096), (256, 65536))
BUFFER = 5000


def webdataset_order(shards: int, per_shard: int) -> np.ndarray:
    """Rows in the order of webdataset: shards shuffled, then a buffer of rows."""
    from webdataset.filters import _shuffle

    order = list(range(shards))
    random.Random(0).shuffle(order)
    rows = (shard * per_shard + row for shard in order for row in range(per_shard))
    return np.fromiter(_shuffle(rows, bufsize=BUFFER, initial=BUFFER, rng=random.Random(1)), np.int64)


def neighbours(order: np.ndarray, per_shard: int) -> float:
    """Median distance of neighbours of one shard, as a share of the epoch."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    distance = np.abs(np.diff(place))[np.arange(len(order) - 1) % per_shard != per_shard - 1]
    return float(np.median(distance)) / len(order)


def from_one(order: np.ndarray, per_shard: int, batch: int) -> float:
    """Mean over batches of the largest part of a batch that comes from one shard."""
    whole = len(order) // batch * batch
    shards = order[:whole].reshape(-1, batch) // per_shard
    return float(np.mean([np.bincount(one).max() for one in shards])) / batch


def reads_per_row(order: np.ndarray, per_shard: int) -> float:
    """Range reads per row where a rank reads as many rows together as it does; neighbours in a shard are one."""
    together = order[: len(order) // READ_ROWS * READ_ROWS].reshape(-1, READ_ROWS)
    ordered = np.sort(together[:: max(1, len(together) // 500)], axis=1)
    apart = (np.diff(ordered, axis=1) > 1) | (np.diff(ordered // per_shard, axis=1) > 0)
    return float((apart.sum(1) + 1).mean()) / READ_ROWS


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=400)
    parser.add_argument("--rows-per-shard", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=4096)
    given = parser.parse_args(arguments)
    rows, per_shard = given.shards * given.rows_per_shard, given.rows_per_shard
    orders = {f"slice {s}, group {g}": Order(rows, 0, s, g).rows_at(0, 0, rows) for s, g in SETTINGS}
    sizes = np.full(given.shards, per_shard)
    orders |= {f"whole shards, group {g}": ShardOrder(sizes, 0, g).rows_at(0, 0, rows) for g in (4096, 65536)}
    orders[f"webdataset, buffer {BUFFER}"] = webdataset_order(given.shards, per_shard)
    print(f"{rows} rows in {given.shards} shards, batches of {given.batch}")
    print(f"{'':26s} {'neighbours':>11s} {'from_one':>9s} {'reads_per_row':>14s}")
    table = {}
    for name, order in orders.items():
        own = name.startswith("slice")
        table[name] = {
            "neighbours": round(neighbours(order, per_shard), 5),
            "from_one": round(from_one(order, per_shard, given.batch), 5),
            "reads_per_row": round(reads_per_row(order, per_shard), 4) if own else 0.0,
        }
        print(f"{name:26s} {table[name]['neighbours']:11.5f} {table[name]['from_one']:9.4f} "
              f"{table[name]['reads_per_row']:14.4f}")  # fmt: skip
    finish({"benchmark": "shuffle_quality", "settings": table})


if __name__ == "__main__":
    main(sys.argv[1:])
