"""The CLIP job as a process: killed and started again it gives the losses of the uncut run, step by step."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from tests.conftest import TINY, start_job

STEPS = 12
SETTINGS = (
    *("--model", TINY, "--global-batch-size", "32", "--micro-batch-size", "8", "--patch-dropout", "0.5"),
    *("--steps", str(STEPS), "--warmup", "6", "--lr", "1e-3", "--log.every", "1", "--checkpoint.every", "4"),
    *("--color-jitter", "0.2", "0.2", "0.2", "0.1", "--retries", "0", "--evaluate.every", "6"),
)


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory, ray_address: str, emoji_shards: Path) -> Path:
    output = tmp_path_factory.mktemp("uncut")
    shards = str(emoji_shards)
    job = start_job(
        "clip_pretrain.py",
        str(output),
        *("--shards", shards, "--val-shards", shards, *SETTINGS),
        ray_address=ray_address,
    )
    code, text = job.finish()
    assert code == 0, text
    return output


def test_a_run_that_was_stopped_and_killed_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, ray_address: str, emoji_shards: Path, uncut: Path
) -> None:
    options = ("--shards", str(emoji_shards), "--val-shards", str(emoji_shards), *SETTINGS)

    def start(workers: int):
        return start_job(
            "clip_pretrain.py", str(tmp_path), *options, "--workers", str(workers), ray_address=ray_address
        )

    job = start(2)
    job.until_step(1)
    job.send(signal.SIGTERM)
    code, text = job.finish()
    assert code == 75, text
    assert "same command continues" in text
    stopped = json.loads((tmp_path / "status.json").read_text())
    assert stopped["state"] == "interrupted"
    assert 1 <= stopped["step"] < STEPS

    job = start(2)
    job.until_step(6)
    job.send(signal.SIGKILL)
    job.finish()

    job = start(1)  # the same global batches on another number of workers
    code, text = job.finish()
    assert code == 0, text
    assert "resumed at step" in text

    reference = {
        row["step"]: row["loss"]
        for row in map(json.loads, (uncut / "metrics.jsonl").read_text().splitlines())
        if row["kind"] == "train"
    }
    found = job.rows()
    assert sorted(found) == sorted(reference) == list(range(1, STEPS + 1))
    for step, loss in reference.items():
        assert found[step]["loss"] == pytest.approx(loss, rel=2e-5), f"step {step}"
    assert job.rows("evaluation")[STEPS]["text_to_image_mean_rank"] == pytest.approx(
        next(
            row["text_to_image_mean_rank"]
            for row in map(json.loads, (uncut / "metrics.jsonl").read_text().splitlines())
            if row["kind"] == "evaluation" and row["step"] == STEPS
        ),
        abs=0.2,
    )


def test_another_configuration_is_refused_field_by_field(ray_address: str, emoji_shards: Path, uncut: Path) -> None:
    changed = [*SETTINGS]
    changed[changed.index("--lr") + 1] = "2e-3"
    job = start_job("clip_pretrain.py", str(uncut), "--shards", str(emoji_shards), *changed, ray_address=ray_address)
    code, text = job.finish()
    assert code == 2, text
    assert "lr: the run has 0.001, now it is 0.002" in text


def test_the_exported_weights_embed_as_the_run_does(uncut: Path, tmp_path: Path, emoji_shards: Path) -> None:
    import open_clip
    from open_clip.model import CLIP

    import lumizoo
    from lumiray.train.export import export_run

    export_run(str(uncut), "open_clip", str(tmp_path / "weights.pt"))
    plain = CLIP(**json.loads(TINY)).eval()
    assert plain.logit_scale.ndim == 0
    open_clip.load_checkpoint(plain, str(tmp_path / "weights.pt"))
    ours = lumizoo.load("clip", model=TINY, weights=str(tmp_path / "weights.pt"))
    texts = ["red apple", "octopus", "flag of nowhere"]
    tokens = open_clip.SimpleTokenizer(context_length=16)(texts)
    with torch.no_grad():
        expected = plain.encode_text(tokens, normalize=True)
    assert torch.allclose(expected, ours.embed_texts(texts), rtol=0, atol=1e-6)


def test_evaluating_the_run_gives_the_figures_of_its_last_evaluation(
    uncut: Path, tmp_path: Path, ray_address: str, emoji_shards: Path
) -> None:
    written = tmp_path / "score.json"
    job = start_job(
        "clip_evaluate.py",
        str(uncut),
        *("--run", str(uncut), "--val-shards", str(emoji_shards), "--workers", "2", "--batch-size", "7"),
        *("--output", str(written)),
        ray_address=ray_address,
    )
    code, text = job.finish()
    assert code == 0, text
    figures = json.loads(written.read_text())["metrics"]
    rows = [json.loads(line) for line in (uncut / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["kind"] == "evaluation"][-1]
    for name, value in figures.items():
        assert value == pytest.approx(last[name], abs=0.02 if "R@" in name else 0.3), name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--shards", "nowhere/{00..03}.tar"), "nowhere"),
        (("--shards", ""), "--shards is missing"),
        (("--model", "ViT-B-23"), "ViT-B-32"),
        (("--steps", "5", "--epochs", "1"), "--steps or --epochs"),
        (("--micro-batch-size", "7"), "multiple of --micro-batch-size"),
        (("--zero", "1", "--engine.deepspeed", "mine.json"), "--zero and --engine.deepspeed"),
        (("--weights", "nothing.safetensors", "--resume", "runs/other"), "--weights and --resume"),
        (("--warmup", "500"), "--warmup 500"),
    ],
)
def test_bad_use_is_refused_before_anything_starts(
    tmp_path: Path, emoji_shards: Path, options: tuple[str, ...], words: str
) -> None:
    usual = ["--shards", str(emoji_shards), "--model", TINY, "--global-batch-size", "32", "--steps", "5"]
    if "--epochs" in options:
        usual = usual[:-2]
    job = start_job("clip_pretrain.py", str(tmp_path), *usual, *options)
    code, text = job.finish()
    assert code == 2, text
    assert words in text
    assert "Traceback" not in text
