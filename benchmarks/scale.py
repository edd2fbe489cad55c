"""From one machine to a thousand GPUs: what limits first, and what a billion samples cost.

    python benchmarks/scale.py [--model ViT-B-32] [--batch 32768] [--gpus 8 64 256 1024] [--cluster.price 4] ...

Measures what a sample, a byte and a shard cost the platform on this machine, and puts these slopes into a model of
one step (scale_model.py) with the cluster that is given.  Nothing here ran on more than this machine: where a cluster
is concerned the table is arithmetic, and says so.  docs/scale.md explains it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import tyro

from job import ROOT, finish

sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models")]

from scale_model import Cluster, Outlook, outlook


@dataclass(frozen=True)
class Options:
    """What is asked."""

    model: str = "ViT-B-32"
    """An open_clip configuration."""
    batch: int = 32_768
    """The global batch; each of --gpus divides it."""
    gpus: tuple[int, ...] = (1, 8, 64, 256, 1024)
    shards: int = 1_000_000
    """Of the training set: ten billion pairs in shards of ten thousand."""
    slice_rows: int = 16
    """The job's --data.slice-rows."""
    cluster: Cluster = field(default_factory=Cluster)


def line(one: Outlook) -> str:
    """A row of the table."""
    worst = "  ".join(f"{name} {share:.2f}" for name, share in sorted(one.shares.items(), key=lambda x: -x[1])[:3])
    return (
        f"{one.gpus:6,d} {1000 * one.step_s:9.1f} {one.waiting:9.1%} {one.samples_per_s:12,.0f} {one.lost:7.2%} "
        f"{one.cost:10,.0f}   {one.limit:16s} {worst}"
    )


def main(arguments: list[str]) -> None:
    """Command line."""
    given = tyro.cli(Options, args=arguments, description=str(__doc__).splitlines()[0])
    for gpus in given.gpus:
        if gpus < 1 or given.batch % gpus:
            sys.exit(f"--batch {given.batch} is not a multiple of --gpus {gpus}.")
    from scale_slopes import slopes, work_of

    work, decode_s = work_of(given.model, given.slice_rows)
    found = slopes(decode_s, given.batch)
    print(f"{given.model}: {work.parameters / 1e6:.0f} M parameters, {work.flops / 1e9:.1f} GFLOP per pair")
    for name, value in dataclasses.asdict(found).items():
        print(f"  measured here   {name:20s} {value:.4g}")
    print("  GPUs   step ms   waiting    samples/s    lost   cost/1e9   limit            nearest limits (share used)")
    lines = [outlook(work, found, given.cluster, gpus, given.batch, given.shards) for gpus in given.gpus]
    for one in lines:
        print(line(one))
    print(f"driver, {given.shards:,} shards: {lines[0].start_s:.0f} s and {lines[0].start_bytes / 1e9:.2f} GB, once")
    rows = [dataclasses.asdict(one) | {"limit": one.limit} for one in lines]
    inputs = {"model": given.model, "batch": given.batch, "cluster": dataclasses.asdict(given.cluster)}
    measured = {"work": dataclasses.asdict(work), "slopes": dataclasses.asdict(found)}
    finish(json.loads(json.dumps({"benchmark": "scale", **inputs, **measured, "outlook": rows})))


if __name__ == "__main__":
    main(sys.argv[1:])
