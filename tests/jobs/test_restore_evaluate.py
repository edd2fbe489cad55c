"""The job that evaluates restoration systems, as a process: a table that adds up, the same on any number of workers."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import start_job
from tests.jobs.test_restore_finetune import SETTINGS, SIZES, pair, shard

import lumizoo
from lumiray.evaluate.evaluate_options import read_evaluate_command
from lumiray.evaluate.report import read_scores
from lumizoo.blocks.lpips import Lpips

JOB = "restore_evaluate.py"
COUNT, BROKEN, STEPS = 7, 4, 4
MEASURES = ["psnr", "ssim", "psnr_gt_mean", "ssim_gt_mean"]
SYSTEM = ("cidnet", "--channels", "4", "4", "8", "8", "--heads", "1", "2", "2", "4")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pairs in two shards, one of them broken, and weights of a tiny network."""
    folder = tmp_path_factory.mktemp("evaluate")
    rows = [pair(100 + number, *SIZES[number % 3]) for number in range(COUNT)]
    del rows[BROKEN]["gt.png"]
    shard(folder / "held-out" / "00000.tar", rows[:3])
    shard(folder / "held-out" / "00001.tar", rows[3:])
    torch.manual_seed(0)
    system = lumizoo.load("cidnet", channels=(4, 4, 8, 8), heads=(1, 2, 2, 4))
    torch.save(system.networks["cidnet"].state_dict(), folder / "tiny.pth")
    return folder


@pytest.fixture(scope="module")
def run(work: Path, tmp_path_factory: pytest.TempPathFactory, ray_address: str) -> Path:
    """A run of a few steps that was evaluated on these pairs."""
    output = tmp_path_factory.mktemp("run")
    train = shard(work / "train" / "00000.tar", [pair(number) for number in range(8)])
    places = ("--shards", str(train), "--val-shards", str(work / "held-out"))
    options = (*SETTINGS, "--steps", str(STEPS), *places)
    code, text = start_job("restore_finetune.py", str(output), *options, ray_address=ray_address).finish()
    assert code == 0, text
    return output


def lpips_files(folder: Path) -> tuple[str, ...]:
    """Options with files in the published layouts, of random weights."""
    torch.manual_seed(1)
    network = Lpips()
    torch.save(network.vgg.state_dict(), folder / "vgg16.pth")
    linear = {f"lin{number}.model.1.weight": one.weight.abs() for number, one in enumerate(network.linear)}
    torch.save(linear, folder / "linear.pth")
    return ("--lpips-vgg", str(folder / "vgg16.pth"), "--lpips-linear", str(folder / "linear.pth"))


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "pictures.csv").read_text(), newline="")))


def evaluated(folder: Path, *options: str, ray_address: str) -> str:
    code, text = start_job(JOB, str(folder), *options, ray_address=ray_address).finish()
    assert code == 0, text
    assert "left out of the evaluation: 00001.tar row 1 (key '00001'): the row has no picture gt.*" in text
    return text


@pytest.mark.slow
def test_weights_in_a_file_have_the_same_figures_on_one_and_two_workers_and_by_hand(
    work: Path, tmp_path: Path, ray_address: str
) -> None:
    weights = ("--weights", str(work / "tiny.pth"), "--val-shards", str(work / "held-out"))
    one, two = tmp_path / "one", tmp_path / "two"
    evaluated(one, *SYSTEM, *weights, "--worst", "3", ray_address=ray_address)
    evaluated(two, *SYSTEM, *weights, "--worst", "0", "--workers", "2", ray_address=ray_address)
    rows = table(one)
    assert rows == table(two)
    numbers = [number for number in range(COUNT) if number != BROKEN]
    assert [(row["shard"], int(row["row"])) for row in rows] == [
        (f"0000{number // 3 if number < 6 else 1}.tar", number if number < 3 else number - 3) for number in numbers
    ]
    assert [row["key"] for row in rows] == [f"{int(row['row']):05d}" for row in rows]
    system = lumizoo.load("cidnet", channels=(4, 4, 8, 8), heads=(1, 2, 2, 4), weights=str(work / "tiny.pth"))
    for row, number in zip(rows, numbers, strict=True):
        parts = pair(100 + number, *SIZES[number % 3])
        dark, bright = (np.asarray(Image.open(io.BytesIO(parts[f"{half}.png"]))) for half in ("lq", "gt"))
        error = ((system.restore(dark).astype(float) - bright) ** 2).mean()
        assert float(row["psnr"]) == pytest.approx(10 * np.log10(255**2 / (error + 1e-8)), abs=0.02)
    for folder in (one, two):
        told = json.loads((folder / "scores.json").read_text())
        assert told["pictures"] == COUNT - 1 and told["metrics"]["unusable_rows"] == 1
        for name in MEASURES:
            assert told["metrics"][name] == pytest.approx(np.mean([float(row[name]) for row in rows]), rel=1e-12)
    drawn = sorted(os.listdir(one / "worst"))
    assert drawn == ["1.png", "2.png", "3.png"] and not (two / "worst").exists()
    worst = min(rows, key=lambda row: float(row["psnr"]))
    page = (one / "summary.md").read_text()
    first = page.partition("## Worst by psnr\n\n")[2].splitlines()[2]
    assert first.startswith(
        f"| `{worst['shard']}` | {worst['row']} | `{worst['key']}` | {float(worst['psnr']):.2f} dB |"
    )
    assert "6 of 7 pairs; not usable: `00001.tar` row 1 (`00001`)" in page
    assert "* lpips: needs two files" in page and "* niqe: needs" in page
    assert "![3](worst/3.png)" in page and "![4]" not in page
    evaluated(one, *SYSTEM, *weights, "--worst", "1", ray_address=ray_address)
    assert os.listdir(one / "worst") == ["1.png"]  # those of the evaluation before are gone


def test_a_run_has_the_figures_of_its_last_evaluation_and_its_report_shows_them(
    run: Path, work: Path, tmp_path: Path, ray_address: str
) -> None:
    held_out = ("--val-shards", str(work / "held-out"), "--workers", "2")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (last,) = (line for line in lines if line["kind"] == "evaluation")
    lpips = lpips_files(tmp_path)
    evaluated(run / "figures", "cidnet", "--run", str(run), *held_out, *lpips, ray_address=ray_address)
    figures = json.loads((run / "figures" / "scores.json").read_text())["metrics"]
    assert list(figures) == [*MEASURES, "lpips", "unusable_rows"]
    for name, value in figures.items():
        if name == "lpips":
            assert value == pytest.approx(np.mean([float(row["lpips"]) for row in table(run / "figures")]), rel=1e-12)
            assert value > 0
            continue
        assert value == pytest.approx(last[name], abs=0.02), name
        if name in MEASURES:
            assert np.mean([float(row[name]) for row in table(run / "figures")]) == pytest.approx(value, rel=1e-12)
    (run / "scores").mkdir()
    (run / "figures").rename(run / "scores" / "some-time")
    assert [one["metrics"] for one in read_scores(str(run))] == [figures]
    assert "stage train" in (run / "scores" / "some-time" / "summary.md").read_text()


def test_the_settings_of_a_run_or_of_its_checkpoint_are_taken_over_and_may_be_changed(run: Path) -> None:
    (checkpoint,) = (run / "checkpoints").iterdir()
    for named in (run, checkpoint):
        command = read_evaluate_command(("cidnet", "--run", str(named), "--val-shards", "a", "--gamma", "0.8"), "words")
        assert command.run_folder == str(run)
        assert command.config.channels == (4, 4, 8, 8) and command.config.gamma == 0.8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--run", "a"), "Say first which system, as in cidnet --run runs/a --val-shards held-out/"),
        (("cidnet", "--val-shards", "SHARDS"), "Say what to evaluate: --run OUTPUT of a training job, or --weights"),
        (("cidnet", "--val-shards", "SHARDS", "--run", "nowhere"), "--run nowhere: there is no run."),
        (("cidnet", "--val-shards", "SHARDS", "--run", "a", "--weights", "b.pth"), "--run and --weights both say"),
        (("cidnet", "--val-shards", "SHARDS", "--weights", "FOLDER"), "A run is given as --run"),
        (("cidnet", "--val-shards", "SHARDS", "--weights", "nowhere.pth"), "--weights nowhere.pth: no such file"),
        (("cidnet", "--val-shards", "nowhere", "--weights", "FILE"), "nowhere"),
        (("cidnet", "--val-shards", "SHARDS", "--weights", "FILE", "--worst", "-1"), "--worst is -1"),
        (("cidnet", "--val-shards", "SHARDS", "--weights", "FILE", "--workers", "0"), "--workers is 0"),
        (("clip", "--val-shards", "SHARDS", "--weights", "FILE"), "clip restores no pictures; these do: cidnet"),
        (("cidnet", "--weights", "FILE"), "--val-shards"),
        (("cidnet", "--val-shards", "SHARDS", "--weights", "FILE", "--lpips-vgg", "FILE"), "LPIPS needs two files"),
        (
            ("cidnet", "--val-shards", "SHARDS", "--weights", "FILE", "--lpips-vgg", "FILE", "--lpips-linear", "gone"),
            "--lpips-linear gone: no such file",
        ),
        (("zs-n2n", "--val-shards", "SHARDS"), "it is fitted to each picture by jobs/restore_zero_shot.py"),
    ],
)
def test_bad_use_is_refused_before_anything_starts(
    work: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    places = {"SHARDS": str(work / "held-out"), "FILE": str(work / "tiny.pth"), "FOLDER": str(work)}
    given = [places.get(one, one) for one in options]
    code, text = start_job(JOB, str(tmp_path / "figures"), *given).finish()
    assert code == 2, text
    assert words in " ".join(text.split()) or words in text
    assert "Traceback" not in text
    assert not (tmp_path / "figures").exists()


def test_a_folder_of_stages_is_refused_with_the_runs_in_it(tmp_path: Path) -> None:
    from lumiray.errors import UserError

    for name in ("enhance-1", "prompts"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("system: clip-lit\n")
    with pytest.raises(UserError, match=f"give one of them: {tmp_path}/enhance-1, {tmp_path}/prompts"):
        read_evaluate_command(("clip-lit", "--run", str(tmp_path), "--val-shards", "a"), "words")
    with pytest.raises(UserError, match="is for the system 'clip-lit'"):
        read_evaluate_command(("cidnet", "--run", str(tmp_path / "prompts"), "--val-shards", "a"), "words")


def test_of_several_stages_the_last_one_with_measures_counts_and_a_run_without_any_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from lumiray.errors import UserError
    from lumiray.train import score_pictures

    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pth")
    given = ("clip-lit", "--val-shards", "a", "--rounds", "2", "--weights", str(tmp_path / "weights.pth"))
    subject, stage = score_pictures.subject_of(read_evaluate_command(given, "words"))
    assert stage.name == subject.stage == "enhance-2" and subject.checkpoint is None
    (tmp_path / "config.yaml").write_text("system: clip-lit\nrounds: 2\n")
    command = read_evaluate_command(("clip-lit", "--val-shards", "a", "--run", str(tmp_path)), "words")
    for name, measured in (("enhance-1", True), ("refine-1", False)):
        manifest = SimpleNamespace(identity={"stage": name}, url="checkpoint")
        monkeypatch.setattr(score_pictures, "open_checkpoint", lambda url, found=manifest: found)
        if measured:
            assert score_pictures.subject_of(command)[0].stage == name
        else:
            with pytest.raises(UserError, match="one that has: reconstruct, enhance-1, enhance-2"):
                score_pictures.subject_of(command)
