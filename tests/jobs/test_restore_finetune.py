"""The restoration job as a process: it learns photographs that it never saw, goes on after a kill, says bad pairs."""

from __future__ import annotations

import io
import json
import signal
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import ROOT, start_job

from lumiray.data.entries import StreamSpec
from lumiray.errors import UserError

sys.path.insert(0, str(ROOT / "examples" / "low_light"))

JOB = "restore_finetune.py"
SMALL = ("--channels", "4", "4", "8", "8", "--heads", "1", "2", "2", "4", "--perceptual-weight", "0")
SETTINGS = (
    *("cidnet", *SMALL, "--crop-size", "32", "--global-batch-size", "4", "--micro-batch-size", "2"),
    *("--warmup", "2", "--lr", "1e-3", "--log.every", "1", "--retries", "0"),
)
STEPS = 12
RUN = (*SETTINGS, "--steps", str(STEPS), "--checkpoint.every", "4", "--evaluate.every", "6")
LEARNING_STEPS = 160
SIZES = ((40, 48), (48, 40), (33, 57))  # of the pictures that are evaluated


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pair(number: int, height: int = 40, width: int = 40) -> dict[str, bytes]:
    draw = np.random.default_rng(number)
    coarse = draw.integers(40, 216, (1 + height // 8, 1 + width // 8, 3), dtype=np.uint8)
    bright = coarse.repeat(8, 0).repeat(8, 1)[:height, :width]
    return {"lq.png": png(bright // 4), "gt.png": png(bright)}


def shard(path: Path, rows: list[dict[str, bytes]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, parts in enumerate(rows):
            for part, data in parts.items():
                about = tarfile.TarInfo(f"{number:05d}.{part}")
                about.size = len(data)
                tar.addfile(about, io.BytesIO(data))
    return path.parent


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Options for 24 pairs to train on and seven of three sizes to evaluate on; some have no partner, or an odd one."""
    base = tmp_path_factory.mktemp("pairs")
    rows = [pair(number) for number in range(24)]
    rows[2]["lq.png"] = pair(2, 40, 48)["lq.png"]
    del rows[5]["lq.png"]
    train = shard(base / "train" / "00000.tar", rows)
    rows = [pair(100 + number, *SIZES[number % 3]) for number in range(7)]
    del rows[4]["gt.png"]
    return ("--shards", str(train), "--val-shards", str(shard(base / "held-out" / "00000.tar", rows)))


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory, ray_address: str, shards: tuple[str, ...]) -> Path:
    output = tmp_path_factory.mktemp("uncut")
    code, text = start_job(JOB, str(output), *RUN, *shards, ray_address=ray_address).finish()
    assert code == 0, text
    assert "replaced: 00000.tar row 2 (key '00002'): lq has 48 x 40 pixels and gt 40 x 40; a pair has one size" in text
    assert "replaced: 00000.tar row 5 (key '00005'): the row has no picture lq.* (it has gt.png)" in text
    assert "left out of the evaluation: 00000.tar row 4 (key '00004'): the row has no picture gt.*" in text
    return output


def logged(output: Path, kind: str) -> dict[int, dict[str, float]]:
    rows = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row for row in rows if row["kind"] == kind}


def test_a_run_that_was_killed_goes_on_with_other_workers_as_if_nothing_had_happened(
    tmp_path: Path, ray_address: str, shards: tuple[str, ...], uncut: Path
) -> None:
    job = start_job(JOB, str(tmp_path), *RUN, *shards, "--workers", "2", ray_address=ray_address)
    job.until_step(6)
    job.send(signal.SIGKILL)
    job.finish()
    code, text = start_job(JOB, str(tmp_path), *RUN, *shards, ray_address=ray_address).finish()
    assert code == 0, text
    assert "resumed at step" in text
    found, expected = logged(tmp_path, "train"), logged(uncut, "train")
    assert sorted(found) == sorted(expected) == list(range(1, STEPS + 1))
    for step, row in expected.items():
        assert found[step]["loss"] == pytest.approx(row["loss"], rel=2e-5), f"step {step}"
    for name in ("psnr", "ssim", "psnr_gt_mean", "ssim_gt_mean"):
        for step in (6, STEPS):
            ours, theirs = logged(tmp_path, "evaluation")[step][name], logged(uncut, "evaluation")[step][name]
            assert ours == pytest.approx(theirs, abs=0.02), (name, step)


@pytest.mark.slow
def test_it_brightens_photographs_that_it_never_saw_better_than_the_best_curve(
    tmp_path: Path, ray_address: str
) -> None:
    from curve import fitted
    from pairs import pairs, write_pairs

    from lumiray.data.write import make_shards

    for part, folder in write_pairs(tmp_path / "pairs").items():
        make_shards(str(folder), str(tmp_path / part), rows_per_shard=1000)
    places = ("--shards", str(tmp_path / "train"), "--val-shards", str(tmp_path / "held-out"))
    length = ("--steps", str(LEARNING_STEPS), "--evaluate.every", "1000", "--retries", "0")
    options = ("cidnet", "--config", str(ROOT / "examples" / "low_light" / "low_light.yaml"), *places, *length)
    code, text = start_job(JOB, str(tmp_path / "run"), *options, ray_address=ray_address).finish()
    assert code == 0, text
    curve, held_out = fitted(pairs("train")), list(pairs("held-out"))
    reached = logged(tmp_path / "run", "evaluation")[LEARNING_STEPS]["psnr"]
    assert reached > decibels(held_out, lambda dark: dark) + 10
    assert reached > decibels(held_out, curve.of) + 2


def decibels(held_out: list[tuple[str, np.ndarray, np.ndarray]], change: Callable[[np.ndarray], np.ndarray]) -> float:
    """Mean PSNR of dark pictures after some change of them."""
    errors = [((change(dark).astype(float) - bright) ** 2).mean() for _, dark, bright in held_out]
    return float(np.mean([10 * np.log10(255**2 / error) for error in errors]))


def test_the_figures_are_those_of_the_exported_weights(tmp_path: Path, shards: tuple[str, ...], uncut: Path) -> None:
    import lumizoo
    from lumiray.train.export import export_run

    weights = str(tmp_path / "cidnet.safetensors")
    export_run(str(uncut), "safetensors", weights)
    system = lumizoo.load("cidnet", channels=(4, 4, 8, 8), heads=(1, 2, 2, 4), weights=weights)
    figures = []
    for number in range(7):
        if number != 4:
            parts = pair(100 + number, *SIZES[number % 3])
            dark, bright = (np.asarray(Image.open(io.BytesIO(parts[f"{half}.png"]))) for half in ("lq", "gt"))
            error = (system.restore(dark).astype(float) - bright) ** 2
            figures.append(10 * np.log10(255**2 / (error.mean() + 1e-8)))
    metrics = logged(uncut, "evaluation")[STEPS]
    assert metrics["psnr"] == pytest.approx(np.mean(figures), abs=0.02)
    assert metrics["unusable_rows"] == 1


def test_pictures_of_several_sizes_in_one_evaluation_batch_are_one_clear_mistake(
    tmp_path: Path, shards: tuple[str, ...]
) -> None:
    from lumiray.command import parse
    from lumiray.data.decoder import Decoder
    from lumiray.data.entries import EVALUATE, Entry
    from lumiray.train.checks import check_job
    from lumiray.train.launch import make_stream
    from lumiray.train.reading import open_here

    def stream(*options: str) -> StreamSpec:
        job = parse("cidnet", (*RUN[1:], *shards, "--output", str(tmp_path), *options)).job
        return make_stream(check_job(job), open_here)

    assert stream().evaluation_batch_size == 1  # not the two of training
    with pytest.raises(UserError, match=r"Evaluate pictures of several sizes one at a time: --evaluate\.batch-size 1"):
        next(Decoder(stream("--evaluate.batch-size", "3")).blocks([Entry(EVALUATE, 0, 0, 3)]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("clip", "--shards", "a"), "clip is trained by jobs/clip_pretrain.py; this job trains cidnet"),
        (("zs-n2n", "--shards", "a"), "zs-n2n is not trained: it is fitted to each picture by jobs/restore_zero_shot"),
        (("zs_n2n",), "fitted to each picture by jobs/restore_zero_shot.py"),
        (("cidnte", "--shards", "a"), "There is no system 'cidnte'; there are cidnet"),
        (("cidnte", "--shards", "a"), "Did you mean 'cidnet'"),
        (("--shards", "a"), "Say first which system is trained, as in cidnet --shards ...; there are cidnet"),
        (("cidnet", "--shards", "nowhere", "--steps", "1"), "--vgg-weights is missing"),
        (("cidnet", "--perceptual-weight", "0", "--shards", "nowhere", "--steps", "200"), "nowhere"),
        (("cidnet", "--perceptual-weight", "0", "--crop-size", "100"), "--crop-size is 100"),
    ],
)
def test_bad_use_is_refused_before_anything_starts(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    code, text = start_job(JOB, str(tmp_path / "run"), *options).finish()
    assert code == 2, text
    assert words in text
    assert "Traceback" not in text
    assert not (tmp_path / "run").exists()


def test_a_dry_run_measures_and_starts_nothing(tmp_path: Path, shards: tuple[str, ...]) -> None:
    code, text = start_job(JOB, str(tmp_path / "run"), *RUN, *shards, "--dry-run").finish()
    assert code == 0, text
    assert "M parameters trained" in text
    assert "Nothing was started." in text
    assert not (tmp_path / "run").exists()
