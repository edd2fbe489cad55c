"""A job submitted to a cluster whose nodes do not have this project; stopped, submitted again, cut."""

from __future__ import annotations

import json
import re

import pytest
from head import SECRETS, Head
from story import STEPS, Told

from lumiray.train.gauges import GAUGES, TAGS
from lumiray.train.manifest import latest

pytestmark = pytest.mark.head


def test_a_job_finds_the_project_in_what_was_uploaded(told: Told) -> None:
    code, words = told.submitted
    assert code == 0, words
    assert "Job 'first' submitted successfully" in words
    uploaded = re.findall(r"Uploading package (\S+)", words)
    assert uploaded, words


def test_progress_is_readable_through_ray_job_logs(told: Told, head: Head) -> None:
    code, words = head.ray("job", "logs", "first", "--address", head.address)
    assert code == 0, words
    assert re.search(rf"step 3/{STEPS}  loss \d+\.\d{{4}}  \d+\.\d/s  waiting \d+%", words)
    assert "Traceback" not in words


def test_stopping_a_job_writes_a_checkpoint_first_and_says_that_it_can_go_on(told: Told) -> None:
    found, words, seconds = told.stopped
    assert found["status"] == "STOPPED", words
    assert seconds < 120
    step = int(re.findall(r"stopped at step (\d+) with a checkpoint in .*; the same command continues", words)[0])
    assert step >= 3
    assert "interrupted; the same command continues" in told.status["stopped"]


def test_the_same_job_submitted_again_goes_on_where_it_was(told: Told) -> None:
    stopped = int(re.findall(r"stopped at step (\d+)", told.stopped[1])[0])
    assert f"resumed at step {stopped} from " in told.cut[1]
    steps = [row["step"] for row in rows(told)]
    assert steps == list(range(1, steps[-1] + 1))
    assert steps[-1] > stopped


def test_a_job_that_was_cut_says_in_its_message_that_it_can_go_on(told: Told) -> None:
    found, _, _ = told.cut
    assert (found["status"], found["driver_exit_code"]) == ("FAILED", 75)
    assert "the same command continues" in found["message"]
    newest = latest(str(told.output))
    assert newest is not None and newest.step == rows(told)[-1]["step"]


def test_status_is_told_from_the_folder_alone(told: Told) -> None:
    running = told.status["running"]
    assert "clip/pretrain: running" in running
    assert re.search(rf"step \d+ of {STEPS}", running)
    assert "last checkpoint: none yet" in running and "restarts: 0" in running
    assert re.search(r"last checkpoint: step \d+, \d+s ago", told.status["cut"])
    assert "restarts: 1" in told.status["cut"]


def test_numbers_of_the_run_are_on_ray_s_prometheus_endpoint(told: Told) -> None:
    later = {"lumiray_checkpoint_age_seconds"}  # there was no checkpoint yet
    assert set(told.metrics) == {f"ray_{name}" for name in GAUGES if name not in later}
    (labels,) = told.metrics["ray_lumiray_loss"]
    assert all(f'{name}="' in labels for name in TAGS)
    assert f'run="{told.output}"' in labels
    (loss,) = told.metrics["ray_lumiray_loss"].values()
    assert any(abs(loss - row["loss"]) < 1e-6 for row in rows(told))
    (total,) = told.metrics["ray_lumiray_total_steps"].values()
    assert total == STEPS
    assert set(told.metrics["ray_lumiray_slowest_rank"].values()) <= {0.0, 1.0}


def test_a_job_takes_nothing_of_the_environment_of_who_submits_it(told: Told) -> None:
    assert "RAY_" in told.environment
    for name, value in SECRETS.items():
        assert name not in told.environment and value not in told.environment


def rows(told: Told) -> list[dict[str, float]]:
    """Logged rows of training."""
    found = map(json.loads, (told.output / "metrics.jsonl").read_text().splitlines())
    return [row for row in found if row["kind"] == "train"]
