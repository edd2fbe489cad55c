from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import contrastive_memory
from contrastive_memory import Memory, evaluate, extrapolated, largest_difference, measure, summary

DENSE = -1


def test_both_forms_give_the_same_loss_and_gradients_on_a_batch_that_tiles_do_not_divide() -> None:
    dense, tiled = evaluate(100, 24, DENSE, "cpu"), evaluate(100, 24, 32, "cpu")
    assert tiled.loss == pytest.approx(dense.loss, rel=1e-5)
    assert dense.gradients.keys() == tiled.gradients.keys() == {"image", "text", "scale"}
    for name, gradient in dense.gradients.items():
        assert np.abs(gradient).max() > 0
        np.testing.assert_allclose(tiled.gradients[name], gradient, atol=1e-5 * np.abs(gradient).max())


def test_memory_counts_what_was_held_at_the_highest_and_given_back_since() -> None:
    memory = Memory("cpu")
    held = np.ones(8 << 20)  # 64 MiB of doubles
    del held
    peak = memory.peak()
    assert peak >= 60 << 20
    assert Memory("cpu").peak() < peak - (30 << 20), "a new baseline forgets the old peak"


def test_the_dense_form_holds_more_than_the_tiled_one() -> None:
    dense, tiled = measure(1536, 16, DENSE, "cpu"), measure(1536, 16, 128, "cpu")
    logits_mib = 1536**2 * 4 / (1 << 20)
    assert dense["peak_mib"] > 2 * logits_mib
    assert tiled["peak_mib"] < logits_mib
    assert tiled["loss"] == pytest.approx(dense["loss"], rel=1e-5)


def test_extrapolation_follows_a_quadratic_without_constant_and_is_marked() -> None:
    def row(batch: int) -> dict:
        return {"batch": batch, "peak_mib": 3e-6 * batch**2 + 0.01 * batch, "seconds": 1.0, "cpu_seconds": 2.0}

    found = extrapolated([row(1000), row(2000), row(4000)], 8000)
    assert found["extrapolated"] is True
    assert found["peak_mib"] == pytest.approx(row(8000)["peak_mib"], rel=1e-3)
    assert (found["seconds"], found["cpu_seconds"]) == (4.0, 8.0)
    assert extrapolated([row(1000)], 2000)["peak_mib"] == pytest.approx(4 * row(1000)["peak_mib"])


def test_the_ratio_is_of_the_tiled_peaks_and_missing_where_they_were_not_measured() -> None:
    def row(batch: int, peak: float, seconds: float) -> dict:
        return {"batch": batch, "peak_mib": peak, "seconds": seconds, "cpu_seconds": seconds}

    dense = [row(16384, 4000, 10.0), row(32768, 16000, 40.0) | {"extrapolated": True}]
    tiled = [row(16384, 400, 13.0), row(32768, 800, 99.0)]
    found = summary(dense, tiled, {"loss": 0.0, "gradient": 0.0})
    assert found["ratio_16k_32k"] == 2.0
    assert found["ratio_time"] == 1.3, "only where both were run"
    assert summary(dense[:1], tiled[:1], {})["ratio_16k_32k"] is None


def test_a_difference_of_gradients_is_relative_to_the_tensor_that_has_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", image=np.array([100.0, 101.0]), scale=np.array([1e-3]))
    np.savez(tmp_path / "other.npz", image=np.array([100.0, 100.0]), scale=np.array([1.1e-3]))
    assert largest_difference(tmp_path / "one.npz", tmp_path / "other.npz") == pytest.approx(0.1 / 1.1)


def test_the_command_ends_with_one_json_object_and_marks_what_it_did_not_run(
    capsys: pytest.CaptureFixture,
) -> None:
    sizes = ["--batches", "64,128", "--dense-to", "64", "--width", "16", "--tile", "32"]
    contrastive_memory.main([*sizes, "--device", "cpu"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["benchmark"] == "contrastive_memory"
    assert [row["batch"] for row in result["tiled"]] == [64, 128]
    assert ["extrapolated" in row for row in result["dense"]] == [False, True]
    assert 0 < result["largest_relative_error"]["gradient"] < 1e-4
    assert result["ratio_16k_32k"] is None
