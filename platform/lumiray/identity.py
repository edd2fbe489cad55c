"""What a run is: the settings that decide its numbers.  A run continues only as what it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from lumiray import __version__
from lumiray.config import JobConfig
from lumiray.train.sizes import Sizes

# how a run is carried out, not what it computes
OUTSIDE = {
    *("output", "workers", "resume", "device", "retries", "accept_changes", "epochs", "steps", "val_shards"),
    *("shards", "global_batch_size", "micro_batch_size", "checkpoint", "evaluate", "log", "zero"),
    *("data.decoders", "data.index", "data.bad_rows", "data.bad_rows_limit"),
    *("engine.offload_optimizer", "engine.offload_parameters", "engine.nvme_path", "engine.deepspeed"),
    *("engine.compile",),
}


def identity(job: JobConfig, data_digest: str, sizes: Sizes, total_steps: int) -> dict[str, Any]:
    """Plain values by dotted name: version, data, sizes, and every setting that changes the result."""
    found = {
        "version": __version__,
        "system": job.slug,
        "data": data_digest,
        "global_batch_size": sizes.global_batch_size,
        "micro_batch_size": sizes.micro_batch_size,
        "total_steps": total_steps,
    }
    for part, value in (("", job.run), ("", job.system)):
        found |= {name: one for name, one in _flat(part, value).items() if name not in OUTSIDE}
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
