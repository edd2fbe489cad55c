"""The command line of a job: options win over YAML, mistakes get one message, every end has its exit code."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lumiray.command import guarded, parse, run
from lumiray.config import JobConfig
from lumiray.errors import Interrupted, RunFailure, UserError
from lumiray.settings_file import to_yaml
from tests.settings import all_changed, default_job


def parsed(*arguments: str) -> JobConfig:
    return parse("clip", arguments).job


def test_an_empty_line_is_the_published_recipe() -> None:
    found = parse("clip", [])
    assert found.job == default_job()
    assert not found.dry_run


def test_the_names_that_every_training_job_has_reach_their_fields() -> None:
    line = """--shards a --val-shards b --output c --model RN50 --workers 2 --global-batch-size 64 --micro-batch-size 16
        --steps 9 --zero 1 --precision bf16 --lr 1e-3 --warmup 3 --seed 4 --resume never"""
    job = parsed(*line.split())
    assert dataclasses.asdict(job.run) | {"model": job.system.model} == dataclasses.asdict(default_job().run) | {
        "shards": "a",
        "val_shards": "b",
        "output": "c",
        "model": "RN50",
        "workers": 2,
        "global_batch_size": 64,
        "micro_batch_size": 16,
        "steps": 9,
        "zero": 1,
        "precision": "bf16",
        "lr": 1e-3,
        "warmup": 3,
        "seed": 4,
        "resume": "never",
    }
    assert parsed("--epochs", "1.5").run.epochs == 1.5


def test_options_of_groups_and_of_the_system_are_read_in_every_spelling() -> None:
    job = parsed(
        "--data.slice-rows", "8", "--data.group_rows=64", "--optimizer.betas", "0.9", "0.95", "--lock-image=true"
    )
    assert (job.run.data.slice_rows, job.run.data.group_rows) == (8, 64)
    assert job.run.optimizer.betas == (0.9, 0.95)
    assert job.system.lock_image is True
    assert parsed("--accept-changes", "lr", "data").run.accept_changes == ("lr", "data")
    assert parsed("--color-jitter", "1", "1", "1", ".5").system.color_jitter == (1.0, 1.0, 1.0, 0.5)


@pytest.mark.parametrize("form", [("--config", "{}"), ("--config={}",)])
@pytest.mark.parametrize("last", [True, False])
def test_options_on_the_line_win_over_the_file_wherever_it_stands(
    tmp_path: Path, form: tuple[str, ...], last: bool
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("workers: 3\nlr: 1e-3\nlock_image: true\ndata: {slice_rows: 8, group_rows: 64}\nmodel: RN50\n")
    own = ("--workers", "5", "--data.slice-rows", "4", "--lock-image", "false", "--lr", "none")
    config = tuple(part.format(file) for part in form)
    job = parsed(*(*own, *config) if last else (*config, *own))
    assert (job.run.workers, job.run.lr, job.system.lock_image) == (5, None, False)
    assert (job.run.data.slice_rows, job.run.data.group_rows) == (4, 64)  # the rest of a group stays the file's
    assert job.system.model == "RN50"


def test_the_configuration_that_a_run_wrote_repeats_it_exactly(tmp_path: Path) -> None:
    job = dataclasses.replace(all_changed(), run=dataclasses.replace(all_changed().run, resume="auto", start_from=None))
    (tmp_path / "config.yaml").write_text(to_yaml(job))
    assert parsed("--config", str(tmp_path / "config.yaml")) == job


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_dry_run_is_told_from_a_run_wherever_the_option_stands(place: int) -> None:
    line = ["--workers", "2"]
    at = (0, 2, 2)[place]
    found = parse("clip", [*line[:at], "--dry_run" if place == 1 else "--dry-run", *line[at:]])
    assert found.dry_run
    assert found.job.run.workers == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--wokers 2", "Unrecognized options: --wokers, 2 | --workers INT"),
        ("--model=x y", "Unrecognized options: y"),
        ("--workers many", "--workers: 'many' is not a whole number."),
        ("--workers 1.5", "--workers: '1.5' is not a whole number."),
        ("--steps ten", "--steps: 'ten' is not a whole number."),
        ("--lr 1e-3x", "--lr: '1e-3x' is not a number."),
        ("--epochs nan", "--epochs: 'nan' is not a number."),
        ("--patch-dropout inf", "--patch-dropout: 'inf' is not a number."),
        ("--lock-image maybe", "--lock-image: 'maybe' is not true or false."),
        ("--zero 5", "invalid choice '5' for argument '--zero'. Expected one of ('0', '1', '2', '3', 'none')."),
        (
            "--precision fp8",
            "invalid choice 'fp8' for argument '--precision'. Expected one of ('fp32', 'bf16', 'fp16').",
        ),
        ("--optimizer.betas 0.9", "--optimizer.betas: needs 2 values, not 1."),
        ("--optimizer.betas 0.9 b", "--optimizer.betas: 'b' is not a number."),
        ("--crop-scale 0.5", "Missing value for argument '--crop-scale'. Expected 2 values."),
        ("--workers", "Missing value for argument '--workers'. Expected 1 values."),
        ("--config", "Missing value for argument '--config'. Expected 1 values."),
        ("--config --workers 2", "Missing value for argument '--config'. Expected 1 values."),
    ],
)
def test_a_bad_line_gets_one_clear_message_and_code_2(
    line: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        parsed(*line.split())
    assert refused.value.code == 2
    out, error = capsys.readouterr()
    plain = " ".join(error.replace("│", " ").split())
    assert out == ""
    for part in words.split(" | "):
        assert part in plain
    assert "--help" in plain  # where to read on
    assert "class '" not in plain
    assert "NoneType" not in plain


def test_mistakes_in_a_configuration_file_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("wokers: 2\n")
    with pytest.raises(UserError, match=r"mine\.yaml: unknown option 'wokers'. Did you mean 'workers'"):
        parsed("--config", str(file))
    with pytest.raises(UserError, match=r"nowhere\.yaml: cannot be read"):
        parsed("--config", str(tmp_path / "nowhere.yaml"))


def test_two_origins_of_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--weights and --resume"):
        parsed("--weights", "a.pt", "--resume", "runs/other")
    for harmless in ("auto", "never"):
        assert parsed("--weights", "a.pt", "--resume", harmless).system.weights == "a.pt"


def failing(error: BaseException) -> Callable[[], Any]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize(
    ("action", "code", "said"),
    [
        (lambda: None, 0, ""),
        (failing(UserError("--lr is wrong")), 2, "error: --lr is wrong\n"),
        (failing(RunFailure("the disk is full")), 1, "error: the disk is full\n"),
        (failing(Interrupted("stopped at step 3")), 75, "stopped at step 3\n"),
        (failing(KeyboardInterrupt()), 130, ""),
    ],
)
def test_every_end_of_a_job_has_its_message_and_exit_code(
    action: Callable[[], Any], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded(action) == code
    assert capsys.readouterr().err == said


def test_our_own_mistakes_keep_their_trace() -> None:
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: 1 / 0)


@pytest.mark.parametrize("line", [["--workers", "2"], ["--workers", "2", "--dry-run"]])
def test_a_job_trains_or_only_says_what_it_would_do(
    line: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[JobConfig] = []
    monkeypatch.setattr(sys, "argv", ["job.py", *line])
    with pytest.raises(SystemExit) as end:
        run("clip", "A job.", trained.append, lambda job: f"{job.run.workers} workers would start")
    assert end.value.code == 0
    dry = "--dry-run" in line
    assert [job.run.workers for job in trained] == ([] if dry else [2])
    assert ("2 workers would start" in capsys.readouterr().out) == dry
