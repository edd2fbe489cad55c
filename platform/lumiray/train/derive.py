"""Rows that the networks of the stage before have added to: new shards in the run's folder, before a stage reads them.

One new shard for each of the source, there whole or not at all, so a run that was killed meanwhile goes on with those
that are missing.  Where several stages of a chain derive from one source, each begins with the rows of the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from lumiray.config import JobConfig
from lumiray.data.index import ShardSet
from lumiray.data.listing import Listed, still_there
from lumiray.data.parallel import open_shards, ray_map
from lumiray.data.shard_file import ShardFile, staged
from lumiray.errors import UserError
from lumiray.registry import system as make_system
from lumiray.settings_file import without_weights
from lumiray.sources import training_sources
from lumiray.storage import join, list_names
from lumiray.system import BadRow, Stage, System, stage_named
from lumiray.train.chain import start_from
from lumiray.train.checks import Checked

RECORDS = "records"  # folder in a run's output


@dataclass(frozen=True)
class _Shard:
    """One shard to be written."""

    job: JobConfig
    shards: ShardSet
    number: int
    url: str
    size: int


def with_records(job: JobConfig, before: Sequence[JobConfig]) -> JobConfig:
    """A stage's job with the rows that the nearest stage before it has derived, where both derive from one source."""
    stages = {one.run.stage: stage_named(make_system(one.slug, one.system), one.run.stage) for one in (*before, job)}
    name = stages[job.run.stage].derives
    earlier = [one for one in before if name and stages[one.run.stage].derives == name]
    if not earlier:
        return job
    folder = join(str(earlier[-1].run.output), RECORDS)
    sources = training_sources(job.run.shards, job.run.mix)
    mix = tuple(str(replace(one, patterns=folder) if one.name == name else one) for one in sources)
    return replace(job, run=replace(job.run, mix=mix))


def derived(checked: Checked) -> Checked:
    """The job with derived rows in place of those of the source that its stage names.  Ray must be up.

    Raises:
        UserError: no row could be derived.
    """
    stage, job = checked.stage, checked.job
    if stage.derives is None:
        return checked
    folder = join(str(job.run.output), RECORDS)
    training = []
    for named, listed in checked.training:
        if named.name == stage.derives:
            named, listed = replace(named, patterns=folder), _write(job, stage, listed, folder)
        training.append((named, listed))
    return replace(checked, training=tuple(training))


def _write(job: JobConfig, stage: Stage, listed: list[Listed], folder: str) -> list[Listed]:
    shards = open_shards(listed, job.run.data.index)
    names = [f"{number:05d}.tar" for number in range(len(shards))]
    there = set(list_names(folder))
    todo = [
        _Shard(job, shards, number, join(folder, name), int(shards.sizes[number]))
        for number, name in enumerate(names)
        if name not in there
    ]
    if todo:
        print(f"{job.slug}/{stage.name}: what {stage.start} makes of the rows of {stage.derives}", flush=True)
    left_out = sum(ray_map(_write_shard, todo))
    if left_out:
        print(f"note: {left_out} rows of {stage.derives} cannot be used and were left out", flush=True)
    found = still_there([join(folder, name) for name in names])
    if not any(one.size > 2 * 512 for one in found):
        raise UserError(f"{job.slug}/{stage.name}: no row of {stage.derives} can be used.")
    return found


def _write_shard(one: _Shard) -> int:
    """Write a shard; how many rows of the source are left out."""
    system, stage = _ready(one.job.slug, one.job.system, one.job.run.stage, str(one.job.run.start_from))
    first, last = one.shards.starts[one.number : one.number + 2].tolist()
    left_out = 0
    with staged(one.url) as file:
        shard = ShardFile(file)
        for row in one.shards.read(np.arange(first, last)):
            try:
                if isinstance(row, BadRow):
                    raise row
                shard.add(row.key, system.derived(stage, row))
            except BadRow:
                left_out += 1
        shard.close("")
    return left_out


@cache
def _ready(slug: str, config: Any, name: str | None, start: str) -> tuple[System, Stage]:
    """A system with the networks of the run that a stage starts from, and that stage; kept for further shards."""
    system = make_system(slug, without_weights(config))
    stage = stage_named(system, name)
    before = stage_named(system, stage.start)
    system.build(before)
    start_from(start, system, before)
    system.networks.eval()
    return system, stage
