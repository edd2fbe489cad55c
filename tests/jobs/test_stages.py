"""A system of several stages as one command: each starts from the one before, some rows come from networks.

The system is clip-lit: prompts and enhancer take turns, and refinement reads what the enhancer makes of its rows.
"""

from __future__ import annotations

import io
import json
import signal
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.conftest import ROOT, start_job

from lumiray.errors import UserError

sys.path.insert(0, str(ROOT / "tests" / "zoo"))

JOB = "restore_finetune.py"
ROWS, SIDE = 6, 48
STAGES = ("prompts", "enhance-1", "refine-1", "enhance-2", "refine-2")


def photograph(number: int, brightness: int) -> bytes:
    draw = np.random.default_rng(number)
    coarse = draw.integers(0, 2 * brightness, (6, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse.repeat(SIDE // 6, 0).repeat(SIDE // 6, 1)).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path: Path, rows: list[bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, data in enumerate(rows):
            about = tarfile.TarInfo(f"{number:05d}.png")
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    return path.parent


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Backlit and well-lit pictures, of which one is none, a small CLIP, a few steps of every stage."""
    from small_clips import SCORING, files

    base = tmp_path_factory.mktemp("clip-lit")
    backlit = [photograph(number, 40) for number in range(ROWS)]
    backlit[2] = b"no picture"
    sources = {
        "backlit": write_shard(base / "backlit" / "a.tar", backlit),
        "well-lit": write_shard(base / "well-lit" / "a.tar", [photograph(100 + n, 120) for n in range(ROWS)]),
    }
    return (
        *("clip-lit", "--clip-model", json.dumps(SCORING), "--clip-weights", str(files(base).clip_weights)),
        *("--prompt-length", "4", "--rounds", "2", "--identity-weight", "0"),
        *("--enhancer-size", str(SIDE), "--prompt-size", str(SIDE), "--lr", "1e-3"),
        *("--mix", *(f"{name}=1:{folder}" for name, folder in sources.items())),
        *("--global-batch-size", "4", "--micro-batch-size", "4", "--retries", "0", "--data.bad-rows-limit", "1"),
        *("--stage-steps", *(f"{name}={2 + number}" for number, name in enumerate(STAGES))),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, ray_address: str, options: tuple[str, ...]) -> tuple[Path, str]:
    """All stages, killed when the second one was done and started again; the folder and what both said."""
    output = tmp_path_factory.mktemp("run")
    job = start_job(JOB, str(output), *options, ray_address=ray_address)
    while not (output / "refine-1" / "config.yaml").exists():
        assert job.process.poll() is None, job.finish()
        time.sleep(0.1)
    job.send(signal.SIGKILL)
    _, before = job.finish()
    code, text = start_job(JOB, str(output), *options, ray_address=ray_address).finish()
    assert code == 0, text
    return output, before + text


def weights(run: Path, stage: str, tmp_path: Path) -> dict[str, torch.Tensor]:
    from lumiray.train.export import export_run

    file = tmp_path / f"{stage}.safetensors"
    export_run(str(run / stage), "safetensors", str(file))
    return load_file(file)


def test_every_stage_is_done_once_and_is_as_long_as_was_said(run: tuple[Path, str]) -> None:
    output, text = run
    for number, name in enumerate(STAGES):
        status = json.loads((output / name / "status.json").read_text())
        assert (status["state"], status["step"]) == ("done", 2 + number)
    for name in STAGES[:2]:
        assert f"clip-lit/{name}: done already" in text
    assert "resumed" not in (output / "enhance-2" / "metrics.jsonl").read_text()


def test_a_stage_starts_from_the_result_of_the_one_before(run: tuple[Path, str], tmp_path: Path) -> None:
    output, _ = run
    states = [weights(output, name, tmp_path) for name in STAGES]
    for before, after, name in zip(states, states[1:], STAGES[1:], strict=False):
        held, moved = ("embedding_prompt", "cond1.weight")
        if name.startswith("refine"):
            held, moved = moved, held
        assert torch.equal(before[held], after[held]), name
        assert not torch.equal(before[moved], after[moved]), name


def test_refinement_reads_what_the_enhancers_before_it_made_of_each_row(run: tuple[Path, str], tmp_path: Path) -> None:
    from lumizoo.clip_lit.network import Enhancer
    from lumizoo.clip_lit.results import stored_result

    output, text = run
    assert "note: 1 rows of backlit cannot be used and were left out" in text
    held: dict[str, dict[str, bytes]] = {}
    for name in ("refine-1", "refine-2"):
        with tarfile.open(output / name / "records" / "00000.tar") as tar:
            held[name] = {one.name: tar.extractfile(one).read() for one in tar.getmembers()}  # type: ignore[union-attr]
    assert len(held["refine-1"]) == 2 * (ROWS - 1)
    assert len(held["refine-2"]) == 3 * (ROWS - 1)
    enhancer = Enhancer()
    for stage, part in (("enhance-1", "result1"), ("enhance-2", "result2")):
        state = weights(output, stage, tmp_path)
        enhancer.load_state_dict({name: state[name] for name in enhancer.state_dict()})
        picture = np.asarray(Image.open(io.BytesIO(held["refine-2"]["00000.png"])).convert("RGB"))
        stored = np.asarray(Image.open(io.BytesIO(held["refine-2"][f"00000.{part}.png"])))
        assert np.abs(stored.astype(int) - stored_result(enhancer.eval(), picture, SIDE).astype(int)).max() <= 1
    assert held["refine-1"]["00000.result1.png"] == held["refine-2"]["00000.result1.png"]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (("--stage", "enhance-1"), "clip-lit/enhance-1 starts from the result of prompts"),
        (
            ("--stage", "enhance-1", "--from", "{run}/enhance-2"),
            "is a run of clip-lit/enhance-2, and clip-lit/enhance-1",
        ),
        (("--stage", "refine-1", "--from", "{run}/refine-1"), "starts from clip-lit/enhance-1"),
        (("--stage", "enhance-1", "--from", "{run}/nowhere"), "there is no run"),
        (("--stage", "enhanse-1"), "has no stage 'enhanse-1'"),
        (("--from", "{run}/prompts"), "name it with --stage"),
    ],
)
def test_a_stage_without_what_it_starts_from_is_refused(
    run: tuple[Path, str], tmp_path: Path, options: tuple[str, ...], extra: tuple[str, ...], words: str
) -> None:
    from lumiray.command import parse
    from lumiray.train.launch import train

    given = [one.format(run=run[0]) for one in extra]
    with pytest.raises(UserError) as caught:
        train(parse("clip-lit", [*options[1:], *given, "--output", str(tmp_path / "new")]).job)
    assert words in str(caught.value)


def test_lengths_and_sources_that_do_not_exist_are_refused(tmp_path: Path, options: tuple[str, ...]) -> None:
    from lumiray.command import parse
    from lumiray.train.launch import train

    for extra, words in (
        (("--stage-steps", "prompt=3"), "there is no such stage. Did you mean 'prompts'?"),
        (("--stage-steps", "prompts=none"), "is not STAGE=STEPS"),
        (("--mix", "dark=1:nowhere"), "clip-lit/prompts needs shards of backlit and of well-lit"),
    ):
        with pytest.raises(UserError) as caught:
            train(parse("clip-lit", [*options[1:], *extra, "--output", str(tmp_path)]).job)
        assert words in str(caught.value)
