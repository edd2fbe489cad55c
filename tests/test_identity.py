"""What a run is: every setting that changes its numbers, and none that only says how it is carried out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from lumiray.config import JobConfig, RunConfig
from lumiray.data.plan import Plan, PlanSettings, Source
from lumiray.errors import UserError
from lumiray.identity import compare, data_identity, identity
from lumiray.train.checks import refuse_other_run, stored_run
from lumiray.train.manifest import Manifest, encode
from lumiray.train.sizes import Sizes
from tests.settings import all_changed, changed, default_job, options

SIZES = Sizes(64, 16, 2)
DERIVED = {
    "shards",
    "mix",
    "steps",
    "epochs",
    "epochs_of",
    "stage",
    "stage_steps",
    "global_batch_size",
    "micro_batch_size",
}  # in it as what they amount to
CARRIED_OUT = {
    *("val_shards", "output", "workers", "zero", "resume", "accept_changes", "device", "retries"),
    *("data.decoders", "data.bad_rows", "data.bad_rows_limit", "data.index", "data.cache", "data.cache_gb"),
    *("engine.offload_optimizer", "engine.offload_parameters", "engine.nvme_path", "engine.compile"),
    *("engine.deepspeed", "checkpoint.every", "checkpoint.keep", "checkpoint.best"),
    *("evaluate.every", "evaluate.batch_size", "evaluate.class_names", "evaluate.templates"),
    *("log.every", "log.wandb", "log.mlflow"),
}


def of(job: JobConfig, digest: str = "d1", sizes: Sizes = SIZES, steps: int = 10) -> dict[str, Any]:
    return identity(job, "pretrain", {"data": digest}, sizes, steps)


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


def test_of_several_sources_each_ones_rows_and_weight_are_part_of_it() -> None:
    def data(weight: float, *digests: str) -> dict[str, Any]:
        names = ("photos", "drawings")[: len(digests)]
        sources = [Source(name, 10, weight if name == "drawings" else 3.0) for name in names]
        return data_identity(Plan(sources, PlanSettings(2, 4), 8, 8, seed=0), digests)

    assert data(1.0, "d1") == {"data": "d1"}
    both = data(1.0, "d1", "d2")
    assert compare(both, data(1.0, "d1", "d3")) == ["data.drawings: the run has 'd2', now it is 'd3'"]
    assert compare(both, data(2.0, "d1", "d2")) == ["data.drawings.weight: the run has 1.0, now it is 2.0"]


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


def with_lr(lr: float, **values: Any) -> JobConfig:
    return JobConfig("clip", RunConfig(lr=lr, **values), default_job().system)


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """An output that holds a run with lr 1e-3, and a checkpoint of that run elsewhere."""
    output, checkpoint = tmp_path / "a", tmp_path / "b" / "checkpoints" / "step-00000004"
    for folder in (output, checkpoint):
        folder.mkdir(parents=True)
    old = of(with_lr(1e-3))
    (output / "run.json").write_text(json.dumps({"identity": old, "sizes": vars(SIZES), "total_steps": 10}))
    manifest = Manifest(str(checkpoint), 4, 1, {"step": 4}, {}, old, {}, ())
    (checkpoint / "manifest.json").write_bytes(encode(manifest))
    return {"output": output, "checkpoint": checkpoint}


@pytest.mark.parametrize("begun", ["in the output", "at a checkpoint", "at the newest checkpoint of another output"])
def test_a_run_goes_on_only_as_what_it_was_until_each_change_is_accepted_by_name(
    begun: str, places: dict[str, Path], tmp_path: Path
) -> None:
    new = str(tmp_path / "new")
    options = {
        "in the output": {"output": str(places["output"])},
        "at a checkpoint": {"output": new, "resume": str(places["checkpoint"])},
        "at the newest checkpoint of another output": {"output": new, "resume": str(tmp_path / "b")},
    }[begun]

    def job(*accepted: str) -> JobConfig:
        return with_lr(2e-3, seed=1, accept_changes=accepted, **options)

    stored = stored_run(job())
    assert stored is not None
    assert stored["sizes"]["micro_batch_size"] == SIZES.micro_batch_size  # so micro-batches stay what they were
    with pytest.raises(UserError) as refused:
        refuse_other_run(job("seed"), stored, of(job("seed")))
    message = str(refused.value)
    held = begun == "in the output"
    assert message.startswith(f"--output {places['output']} holds" if held else f"--resume {options['resume']} is of")
    assert "a run with other settings:\n  lr: the run has 0.001, now it is 0.002\n" in message
    assert "seed" not in message
    assert "--accept-changes" in message
    refuse_other_run(job("seed", "lr"), stored, of(job("seed", "lr")))


def test_a_new_run_has_nothing_to_go_on_from_and_an_output_can_be_protected(
    places: dict[str, Path], tmp_path: Path
) -> None:
    assert stored_run(with_lr(1e-3, output=str(tmp_path / "new"))) is None
    assert stored_run(with_lr(1e-3, output=str(tmp_path / "new"), resume="never")) is None
    with pytest.raises(UserError, match="holds a run already and --resume is never"):
        stored_run(with_lr(1e-3, output=str(places["output"]), resume="never"))


def test_a_start_from_no_checkpoint_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no checkpoint and holds none"):
        stored_run(with_lr(1e-3, output=str(tmp_path / "new"), resume=str(tmp_path / "nowhere")))


def test_how_many_boxes_evaluation_keeps_is_no_part_of_a_run() -> None:
    assert compare(of(default_job("glip")), of(changed(default_job("glip"), "detections"))) == []
