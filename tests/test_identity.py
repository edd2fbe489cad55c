"""What a run is: every setting that changes its numbers, and none that only says how it is carried out."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from lumiray.config import JobConfig, RunConfig
from lumiray.errors import UserError
from lumiray.identity import compare, identity
from lumiray.train.launch import refuse_other_run
from lumiray.train.sizes import Sizes
from tests.settings import all_changed, changed, default_job, options

SIZES = Sizes(64, 16, 2)
DERIVED = {"shards", "steps", "epochs", "global_batch_size", "micro_batch_size"}  # in it as what they amount to
CARRIED_OUT = {
    *("val_shards", "output", "workers", "zero", "resume", "accept_changes", "device", "retries"),
    *("data.decoders", "data.bad_rows", "data.bad_rows_limit", "data.index"),
    *("engine.offload_optimizer", "engine.offload_parameters", "engine.nvme_path", "engine.compile"),
    *("engine.deepspeed", "checkpoint.every", "checkpoint.keep", "checkpoint.best"),
    *("evaluate.every", "evaluate.batch_size", "evaluate.class_names", "evaluate.templates"),
    *("log.every", "log.wandb", "log.mlflow"),
}


def of(job: JobConfig, digest: str = "d1", sizes: Sizes = SIZES, steps: int = 10) -> dict[str, Any]:
    return identity(job, digest, sizes, steps)


@pytest.mark.parametrize("name", list(options("clip")))
def test_an_option_is_part_of_it_exactly_if_it_changes_the_numbers(name: str) -> None:
    differing = compare(of(default_job()), of(changed(default_job(), name)))
    if name in CARRIED_OUT | DERIVED:
        assert differing == []
    else:
        assert any(line.startswith(f"{name}: the run has ") for line in differing), differing


def test_the_lists_of_this_test_name_options_that_exist() -> None:
    assert set(options("clip")) >= CARRIED_OUT | DERIVED


def test_data_sizes_and_length_are_part_of_it_and_the_number_of_workers_is_not() -> None:
    job = default_job()
    assert compare(of(job), of(job, digest="d2")) == ["data: the run has 'd1', now it is 'd2'"]
    assert compare(of(job), of(job, steps=11)) == ["total_steps: the run has 10, now it is 11"]
    assert compare(of(job), of(job, sizes=Sizes(128, 16, 2))) == ["global_batch_size: the run has 64, now it is 128"]
    assert compare(of(job), of(job, sizes=Sizes(64, 8, 2))) == ["micro_batch_size: the run has 16, now it is 8"]
    assert compare(of(job), of(job, sizes=Sizes(64, 16, 4))) == []
    other = dataclasses.replace(job, slug="their-net")
    assert compare(of(job), of(other)) == ["system: the run has 'clip', now it is 'their-net'"]
    assert of(job)["version"]


@pytest.mark.parametrize("job", [default_job(), all_changed()])
def test_it_is_the_same_after_having_been_stored_as_json(job: JobConfig) -> None:
    assert json.loads(json.dumps(of(job))) == of(job)


def test_every_field_that_differs_gets_a_line_and_accepted_ones_do_not() -> None:
    old, new = {"lr": 1e-3, "seed": 0, "gone": 1, "same": [1]}, {"lr": 2e-3, "seed": 1, "same": [1], "new": "x"}
    assert compare(old, new) == [
        "lr: the run has 0.001, now it is 0.002",
        "seed: the run has 0, now it is 1",
        "gone: the run has 1, now it is 'nothing'",
        "new: the run has 'nothing', now it is 'x'",
    ]
    assert compare(old, new, accepted=("lr", "gone", "new")) == ["seed: the run has 0, now it is 1"]
    assert compare(old, old) == []


def test_a_run_with_other_settings_is_refused_until_each_is_accepted_by_name() -> None:
    def job(*accepted: str) -> JobConfig:
        return JobConfig(
            "clip", RunConfig(output="runs/a", lr=2e-3, seed=1, accept_changes=accepted), default_job().system
        )

    old = of(JobConfig("clip", RunConfig(lr=1e-3), default_job().system))
    with pytest.raises(UserError) as refused:
        refuse_other_run(job("seed"), old, of(job("seed")))
    message = str(refused.value)
    assert "--output runs/a holds a run with other settings" in message
    assert "lr: the run has 0.001, now it is 0.002" in message
    assert "seed" not in message
    assert "--accept-changes" in message
    refuse_other_run(job("seed", "lr"), old, of(job("seed", "lr")))
