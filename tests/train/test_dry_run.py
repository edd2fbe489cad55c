"""`--dry-run`: what is said before a run, against what is there, with nothing started and nothing written."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import TINY

from lumiray import command, storage
from lumiray.config import DataConfig, JobConfig, RunConfig
from lumiray.data.catalog import FOLDER
from lumiray.data.decoder import Decoder
from lumiray.data.entries import TRAIN, StreamSpec, entries, planned_rows, reads
from lumiray.data.listing import find
from lumiray.errors import UserError
from lumiray.registry import system as make_system
from lumiray.system import stage_named
from lumiray.train import dry_run, estimate, reading
from lumiray.train.checks import check_job
from lumiray.train.dry_run import describe_job
from lumiray.train.launch import make_stream
from lumizoo.clip.config import ClipConfig


@pytest.fixture
def shards(emoji_shards: Path, tmp_path: Path) -> str:
    """Twelve shards without an index, 100 emoji each."""
    data = [(emoji_shards / f"{number:05d}.tar").read_bytes() for number in range(3)]
    (tmp_path / "set").mkdir()
    for number in range(12):
        (tmp_path / "set" / f"{number:05d}.tar").write_bytes(data[number % 3])
    return str(tmp_path / "set" / "{00000..00011}.tar")


def job(shards: str, output: Path, system: dict[str, Any] | None = None, **given: Any) -> JobConfig:
    usual = {"shards": shards, "output": str(output / "run"), "global_batch_size": 256, "steps": 40, "warmup": 10}
    return JobConfig("clip", RunConfig(**{**usual, **given}), ClipConfig(**{"model": TINY, **(system or {})}))


def stream_of(asked: JobConfig) -> StreamSpec:
    return make_stream(check_job(asked), reading.open_here)


def test_the_command_describes_the_run_and_leaves_nothing(
    emoji_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--shards", str(emoji_shards), "--model", TINY, "--global-batch-size", "64", "--steps", "30"]
    options += ["--warmup", "5", "--device", "cpu", "--checkpoint.every", "10", "--checkpoint.best", "recall"]
    monkeypatch.setattr(sys, "argv", ["clip_pretrain.py", *options, "--output", f"{tmp_path}/run", "--dry-run"])
    with pytest.raises(SystemExit) as ended:
        command.run("clip", "", lambda asked: pytest.fail("it ran"), describe_job)
    text = capsys.readouterr().out
    assert ended.value.code == 0, text
    assert "300 rows in 3 shard(s); 30 steps = 6.4 epochs" in text
    for pattern in (
        r"networks +1\.7 M parameters trained, 0\.0 M frozen; 0\.0\d+ GFLOP per picture",
        r"memory +0\.\d+ GiB per worker at most: weights 0\.01, gradients 0\.01, optimizer 0\.01, buffers",
        r"data +\d+ pictures/s decoded by one core of this machine, \d\.\d\d range reads per picture",
        r"checkpoints +3 of 0\.02 GB over the run, 3 at once at most: 0\.06 GB",
        r"this machine, \d+ cores +[\d,]+ +[\d.]+ +[\d,]+ +\d+% +\d+",
        r"Nothing was started\.",
    ):
        assert re.search(pattern, text), (pattern, text)
    assert "A100" not in text  # the user said which device
    assert not (tmp_path / "run").exists()


def test_a_large_run_on_s3_is_described_from_anywhere(
    s3: str, emoji_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # where it would run; nobody asks there
    for number in range(24):
        storage.write_atomically(f"{s3}/set/{number:05d}.tar", (emoji_shards / "00001.tar").read_bytes())
    large = job(
        s3 + "/set/{00000..00023}.tar",
        tmp_path,
        {"model": "ViT-B-32"},
        **{"workers": 64, "global_batch_size": 32_768, "zero": 1, "precision": "bf16", "steps": 400_000},
    )
    text = describe_job(large)
    assert "151.3 M parameters trained" in text
    memory = dict(re.findall(r"(\w+) (\d+\.\d\d)(?:,|\n)", text.partition("at most:")[2]))
    for name, size in {"weights": 2 * 151.3e6, "optimizer": 12 * 151.3e6 / 64, "activations": 15.0 * 2**30}.items():
        assert float(memory[name]) == pytest.approx(size / 2**30, rel=0.01, abs=0.006), name
    assert "checkpoints   400 of 1.82 GB over the run, 4 at once at most: 7.26 GB" in text
    assert "this machine" not in text.partition("worker(s) on")[2]
    rate = 64 * 0.4 * 312e12 / 44.4e9
    rows = re.search(r"A100 80 GB +([\d,]+) +([\d,.]+) +([\d,]+) +(\d+)% +(\S+ \S+)", text)
    assert rows
    assert float(rows[1].replace(",", "")) == pytest.approx(rate, rel=0.01)
    assert rows[5].startswith("20h ")
    assert "range reads per second to one prefix: lower --data.group-rows" in text


def test_reads_are_those_that_the_stream_will_make(shards: str, tmp_path: Path) -> None:
    stream = stream_of(job(shards, tmp_path, workers=2, data=DataConfig(slice_rows=4, group_rows=64)))
    found = reading.measure_reading(stream, 2)
    asked = rows = 0
    for rank in range(2):
        for together in reads(entries(stream, rank, 2, 0)):
            row = np.concatenate([planned_rows(stream.plan, entry).row for entry in together])
            asked += stream.sources[0].num_requests(row)
            rows += len(row)
    assert found.requests_per_row == pytest.approx(asked / rows, rel=0.15)


def test_a_smaller_group_reads_less_often(shards: str, tmp_path: Path) -> None:
    def asked(slice_rows: int, group_rows: int) -> float:
        data = DataConfig(slice_rows=slice_rows, group_rows=group_rows)
        return reading.measure_reading(stream_of(job(shards, tmp_path, data=data)), 1).requests_per_row

    assert asked(32, 128) < asked(32, 1024)


def test_a_batch_is_described_as_the_decoders_make_it(shards: str, tmp_path: Path) -> None:
    stream = stream_of(job(shards, tmp_path))
    found = reading.measure_reading(stream, 1)
    first = next(one for one in entries(stream, 0, 1, 0) if one.kind == TRAIN)
    (block,) = Decoder(stream).blocks([first])
    assert found.arrays == {name: (value.shape[1:], value.dtype) for name, value in block.arrays.items()}
    assert found.row_bytes * len(block.arrays["row"]) == sum(value.nbytes for value in block.arrays.values())
    assert found.rows_per_s > 0


def test_shards_that_were_never_indexed_are_sampled_where_they_are_many(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reading, "READ_WHOLE", 1_000_000)
    sampled = reading.open_here(find(shards))
    assert "3 of 12 shards were read for the figures below" in capsys.readouterr().out
    indexed = sorted(one.name for one in (tmp_path / "set" / FOLDER).glob("0*.parquet"))
    assert indexed == ["00000.tar.parquet", "00005.tar.parquet", "00011.tar.parquet"]
    last = sampled.num_rows - 1
    some = sampled.read(np.array([0, 299, 300, last]))
    assert some[0].parts == some[2].parts and some[1].parts != some[0].parts
    assert sampled.num_requests(np.arange(300, 316)) == sampled.num_requests(np.arange(16)) == 1
    assert sampled.name_of(int(sampled.locate(np.array([last]))[0][0])) in {"00000.tar", "00005.tar", "00011.tar"}
    text = describe_job(job(shards, tmp_path, steps=None, epochs=10.0))
    assert re.search(r"data +\d+ pictures/s decoded", text)
    said = capsys.readouterr().out
    assert "3 of 12 shards were read" in said
    assert f"{sampled.num_rows} rows in 12 shard(s); {math.ceil(10 * sampled.num_rows / 256)} steps = 1" in said
    monkeypatch.setattr(reading, "READ_WHOLE", 1 << 30)
    whole = reading.open_here(find(shards))
    assert (len(sampled), len(whole), whole.num_rows) == (12, 12, 1200)
    assert sampled.num_rows == pytest.approx(1200, rel=0.05)


@pytest.mark.parametrize(
    ("system", "run", "words"),
    [
        ({"weights": "missing/weights.safetensors"}, {}, "weights.safetensors: no such file"),
        ({"model": "ViT-B-23"}, {}, "ViT-B-32"),
        ({}, {"val_shards": "nowhere/{00000..00009}.tar"}, "are missing"),
        ({}, {"global_batch_size": 256, "micro_batch_size": 7}, "multiple of --micro-batch-size"),
        ({}, {"warmup": 41}, "--warmup 41"),
        ({}, {"device": "cpu", "precision": "fp16"}, "fp16 needs GPUs"),
    ],
)
def test_it_refuses_what_the_run_refuses(
    emoji_shards: Path, tmp_path: Path, system: dict[str, Any], run: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        describe_job(job(str(emoji_shards), tmp_path, system, **run))


def test_weights_that_are_there_are_read_and_frozen_ones_are_counted_apart(emoji_shards: Path, tmp_path: Path) -> None:
    import torch

    system = make_system("clip", ClipConfig(model=TINY))
    networks = system.build(stage_named(system, None))
    torch.save(system.published_state(dict(networks["clip"].state_dict())), tmp_path / "weights.pt")
    asked = job(
        str(emoji_shards), tmp_path, {"weights": str(tmp_path / "weights.pt"), "lock_image": True}, precision="bf16"
    )
    measured = estimate.measure(asked)
    frozen = sum(value.numel() for value in networks["clip"].visual.parameters())
    trained = sum(value.numel() for value in networks.parameters()) - frozen
    assert sum(one.elements for one in measured.sizes["clip"] if not one.trained) == frozen
    assert estimate.saved_bytes(measured) == pytest.approx(12 * trained + 2 * frozen, rel=0.02)
    other = replace(asked, system=replace(asked.system, model=TINY.replace("48", "24", 1)))
    with pytest.raises(UserError, match="does not fit the model"):
        estimate.measure(other)


def test_ones_own_deepspeed_json_decides_the_stage(emoji_shards: Path, tmp_path: Path) -> None:
    measured = estimate.measure(job(str(emoji_shards), tmp_path, workers=4))
    file = tmp_path / "deepspeed.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 10}}))
    run = measured.run
    own = replace(run, engine=replace(run.engine, deepspeed=str(file)))
    checked = replace(measured.checked, job=replace(measured.checked.job, run=own))
    cut = estimate.state_of(replace(measured, checked=checked), on_gpu=False)
    whole = estimate.state_of(measured, on_gpu=False)
    assert cut.weights == pytest.approx(whole.weights / 4, rel=0.01)
    assert cut.optimizer == pytest.approx((whole.optimizer + whole.weights) / 4, rel=0.01)  # fp32 masters besides


def test_what_does_not_fit_is_said_with_the_mend(
    emoji_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = estimate.measure(job(str(emoji_shards), tmp_path))
    huge = replace(measured, activations=90 << 30)
    assert "do not fit an H100 of 80 GB: lower --micro-batch-size" in "\n".join(dry_run.on_gpus(huge, 1e9))
    assert "note:" not in "\n".join(dry_run.on_gpus(measured, 1e9))
    assert "GiB free: lower --micro-batch-size" in "\n".join(
        dry_run.on_these_cores(replace(measured, activations=1 << 60))
    )
    monkeypatch.setattr(dry_run, "TIMED_ELEMENTS", 1)
    assert "too large to be tried here" in "\n".join(dry_run.on_these_cores(measured))


def test_a_system_that_looks_at_values_is_described_without_speed(
    emoji_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lumizoo.clip.system import ClipSystem

    features = ClipSystem.features

    def looking(self: ClipSystem, player: str, batch: dict[str, Any]) -> dict[str, Any]:
        assert float(batch["image"].float().mean()) >= 0
        return features(self, player, batch)

    monkeypatch.setattr(ClipSystem, "features", looking)
    text = describe_job(job(str(emoji_shards), tmp_path))
    assert "speed         not known: one step could not be rehearsed (" in text
    assert "checkpoints" in text and "activations" not in text
