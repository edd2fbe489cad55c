"""The stream over whole shards: real pipelines, rows known by their pixels, resumed on another number of ranks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tests.data.test_stream import (
    BAD,
    BATCH,
    COUNTS,
    MICRO_BATCH,
    ROWS,
    NumberedConfig,
    check_epochs,
    receive,
    shards,
    steps_of,
)

from lumiray.data import catalog
from lumiray.data.entries import StreamSpec
from lumiray.data.index import ShardSet
from lumiray.data.listing import expand
from lumiray.data.plan import Plan, PlanSettings, Source


def test_a_run_over_whole_shards_goes_on_exactly_on_another_number_of_ranks(ray_address: str, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shards.write_shards(folder, COUNTS, BAD)
    told = {f"{number:05d}.tar": rows for number, rows in enumerate(COUNTS)}
    (folder / "sizes.json").write_text(json.dumps(told))
    training = ShardSet.open(expand(str(folder)), index_folder=str(tmp_path / "index"), whole=True)
    plan = Plan(
        (Source("shards", ROWS, 1.0, training.counts),),
        PlanSettings(group_rows=64, read="shard"),
        BATCH,
        MICRO_BATCH,
        seed=3,
    )
    spec = StreamSpec("numbered", NumberedConfig(), "look", plan, (training,), seed=3, total_steps=6)
    whole = steps_of(receive(spec, 3))
    check_epochs(whole)
    resumed = steps_of(receive(spec, 2, first_step=3))
    assert len(resumed) == 3 and all(one.same_as(other) for one, other in zip(resumed, whole[3:], strict=True))
    replaced = {row["position"] for step in whole for row in step.bad}
    for step in whole:
        planned = plan.batch(step.step)
        kept = ~np.isin(planned.position, list(replaced))
        assert np.array_equal(step.numbers[kept], planned.row[kept])
    assert not (folder / catalog.FOLDER).exists()
