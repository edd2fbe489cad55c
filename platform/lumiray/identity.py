"""What a run is: the settings that decide its numbers.  A run continues only as what it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lumiray import __version__
from lumiray.config import JobConfig
from lumiray.data.plan import Plan
from lumiray.train.sizes import Sizes

# how a run is carried out, not what it computes
OUTSIDE = {
    *("output", "workers", "resume", "device", "retries", "accept_changes", "epochs", "steps", "val_shards"),
    *("shards", "mix", "epochs_of", "global_batch_size", "micro_batch_size", "checkpoint", "evaluate", "log", "zero"),
    *("data.decoders", "data.index", "data.cache", "data.cache_gb", "data.bad_rows", "data.bad_rows_limit"),
    *("engine.offload_optimizer", "engine.offload_parameters", "engine.nvme_path", "engine.deepspeed"),
    *("engine.compile", "stage", "stage_steps", "detections"),
}


def identity(job: JobConfig, stage: str, data: Mapping[str, Any], sizes: Sizes, total_steps: int) -> dict[str, Any]:
    """Plain values by dotted name: version, data, sizes, and every setting that changes the result.

    Args:
        data: what the training rows are (`data_identity`).
    """
    found = {
        "version": __version__,
        "system": job.slug,
        "stage": stage,
        **data,
        "global_batch_size": sizes.global_batch_size,
        "micro_batch_size": sizes.micro_batch_size,
        "total_steps": total_steps,
    }
    for part, value in (("", job.run), ("", job.system)):
        found |= {name: one for name, one in _flat(part, value).items() if name not in OUTSIDE}
    return found


def data_identity(plan: Plan, digests: Sequence[str]) -> dict[str, Any]:
    """The digest of the training rows; of several sources each one's, with its weight.

    Args:
        digests: one per source of the plan (`ShardSet.digest`).
    """
    if len(digests) == 1:
        return {"data": digests[0]}
    found: dict[str, Any] = {}
    for source, digest in zip(plan.sources, digests, strict=True):
        found |= {f"data.{source.name}": digest, f"data.{source.name}.weight": source.weight}
    return found


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        name, one = prefix + field.name, getattr(value, field.name)
        if name in OUTSIDE:
            continue
        if dataclasses.is_dataclass(one):
            found |= _flat(name + ".", one)
        else:
            found[name] = list(one) if isinstance(one, tuple) else one
    return found


def compare(old: dict[str, Any], new: dict[str, Any], accepted: Sequence[str] = ()) -> list[str]:
    """One line for every field that differs and was not accepted by name."""
    names = [*old, *(name for name in new if name not in old)]
    return [
        f"{name}: the run has {old.get(name, 'nothing')!r}, now it is {new.get(name, 'nothing')!r}"
        for name in names
        if old.get(name) != new.get(name) and name not in accepted
    ]
