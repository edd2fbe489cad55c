"""`lumiray status RUN` tells a run's state from its folder alone, local or on S3."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from lumiray.cli import main
from lumiray.errors import UserError
from lumiray.run_status import run_status
from lumiray.storage import join, modified, write_atomically
from lumiray.train.manifest import NAME, folder_of
from lumiray.train.status import begin, end, fail, read_status

TOLD = {"identity": {"system": "clip", "stage": "pretrain"}, "total_steps": 400}
ROW = {"kind": "train", "loss": 2.5, "samples_per_s": 812.34, "step_s": 0.5, "data_wait_share": 0.02}


def put(place: str, *rows: dict[str, Any]) -> None:
    write_atomically(place, "".join(json.dumps(row) + "\n" for row in rows).encode())


def make_run(run: str, *steps: int, checkpoint: int | None = None) -> None:
    put(join(run, "run.json"), TOLD)
    if steps:
        put(join(run, "metrics.jsonl"), {"kind": "start", "step": 0}, *(ROW | {"step": step} for step in steps))
    if checkpoint is not None:
        write_atomically(join(folder_of(run, checkpoint), NAME), b"{}")


def grow_old(folder: Path, seconds: float) -> None:
    for file in folder.rglob("*"):
        os.utime(file, (time.time() - seconds,) * 2)


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return join(request.getfixturevalue("s3"), "run") if request.param == "s3" else str(tmp_path / "run")


def test_a_run_that_goes_on_says_how_far_and_how_fast_it_is(run: str) -> None:
    make_run(run, 50, 100, checkpoint=80)
    assert begin(run, 0) == 0
    assert begin(run, 80) == 1
    text = run_status(run)
    assert "clip/pretrain: running\n" in text
    assert "step 100 of 400 (25%), loss 2.5000" in text
    assert "812.3 samples/s, 0.5 s a step, 2% waiting for data, 2m 30s left" in text
    assert "last checkpoint: step 80, 0s ago" in text or "last checkpoint: step 80, 1s ago" in text
    assert "restarts: 1" in text


def test_the_end_is_told_with_what_to_do(run: str) -> None:
    make_run(run, 400)
    begin(run, 0)
    end(run, True, 400, {"R@1": 0.5})
    assert "clip/pretrain: done" in run_status(run)
    assert read_status(run)["metrics"] == {"R@1": 0.5}
    end(run, False, 120, {})
    assert "interrupted; the same command continues" in run_status(run)
    fail(run, "Memory ran out.\nLower --micro-batch-size.")
    assert "failed: Memory ran out.\n" in run_status(run)
    assert read_status(run)["step"] == 120
    begin(run, 120)
    assert "reason" not in read_status(run) and read_status(run)["restarts"] == 1


def test_a_run_whose_processes_are_gone_is_silent(tmp_path: Path) -> None:
    make_run(str(tmp_path), 50, 100, checkpoint=80)
    begin(str(tmp_path), 0)
    grow_old(tmp_path, 110)
    assert ": running\n" in run_status(str(tmp_path))  # 50 steps of half a second between two rows
    grow_old(tmp_path, 700)
    text = run_status(str(tmp_path))
    assert "running, but silent" in text
    assert "last checkpoint: step 80, 11m 40s ago" in text
    assert "last news: 11m 40s ago" in text


def test_a_checkpoint_that_is_being_written_does_not_count(tmp_path: Path) -> None:
    make_run(str(tmp_path), 50, checkpoint=40)
    (tmp_path / "checkpoints" / "step-00000050").mkdir()
    assert "last checkpoint: step 40" in run_status(str(tmp_path))


def test_a_run_before_its_first_step_and_lines_cut_by_a_kill(tmp_path: Path) -> None:
    make_run(str(tmp_path))
    assert "clip/pretrain: starting" in run_status(str(tmp_path))
    (tmp_path / "metrics.jsonl").write_text(json.dumps(ROW | {"step": 7}) + '\n{"kind": "tra')
    assert "step 7 of 400" in run_status(str(tmp_path))
    assert "last checkpoint: none yet" in run_status(str(tmp_path))


def test_every_stage_of_a_run_is_told(tmp_path: Path) -> None:
    for stage in ("first", "second"):
        make_run(str(tmp_path / stage), 10)
    (tmp_path / "notes").mkdir()
    text = run_status(str(tmp_path))
    assert text.count("step 10 of 400") == 2
    assert str(tmp_path / "first") in text and "notes" not in text


def test_a_folder_without_a_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="there is no run"):
        run_status(str(tmp_path))
    assert main(["status", str(tmp_path / "nowhere")]) == 2
    assert "Give the folder that a training job has as --output" in capsys.readouterr().err


def test_when_a_file_was_written_is_known_everywhere(run: str) -> None:
    put(join(run, "one.json"), {})
    assert abs(modified(join(run, "one.json")) - time.time()) < 5
    with pytest.raises(UserError):
        modified(join(run, "other.json"))
