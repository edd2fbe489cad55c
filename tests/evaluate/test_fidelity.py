"""PSNR and SSIM: scikit-image's figures of whole pictures, and the same ones from any number of ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fidelity_sets import COUNT, UNUSABLE, figures_of, on_ranks, pair
from processes import run_group
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from lumiray.evaluate.fidelity import FidelityEvaluator, gt_mean, on_y, psnr, ssim, y_levels
from lumiray.evaluate.named import FIDELITY

USED = [number for number in range(COUNT) if number not in UNUSABLE]


def picture(pixels: torch.Tensor) -> np.ndarray:
    """(1, 3, H, W) -> (H, W, 3)."""
    return pixels[0].permute(1, 2, 0).numpy()


def similarity(restored: np.ndarray, reference: np.ndarray, channel_axis: int | None = -1) -> float:
    return float(
        structural_similarity(
            restored,
            reference,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
            channel_axis=channel_axis,
        )
    )


def brightened(restored: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The result with the reference's mean grey (card cidnet, Metrics)."""
    grey = np.array([0.299, 0.587, 0.114])
    return np.clip(restored * ((reference @ grey).mean() / (restored @ grey).mean()), 0, 255)


@pytest.mark.parametrize("number", range(4))
def test_one_picture_has_the_figures_of_scikit_image(number: int) -> None:
    restored, reference = pair(number)
    one, other = picture(restored), picture(reference)
    assert float(psnr(restored, reference)) == pytest.approx(peak_signal_noise_ratio(other, one, data_range=255))
    assert float(ssim(restored, reference)) == pytest.approx(similarity(one, other), abs=1e-9)


@pytest.mark.parametrize("number", range(4))
def test_gt_mean_sets_the_mean_grey_first_and_rounds_nothing(number: int) -> None:
    restored, reference = pair(number)
    one, other = picture(restored).astype(np.float64), picture(reference).astype(np.float64)
    one = brightened(one, other)
    expected = 10 * np.log10(255**2 / ((one - other) ** 2).mean())
    assert float(gt_mean(psnr)(restored, reference)) == pytest.approx(expected)
    assert float(gt_mean(ssim)(restored, reference)) == pytest.approx(similarity(one, other), abs=1e-9)
    assert float(gt_mean(psnr)(restored, reference)) > float(psnr(restored, reference)) + 1  # these are too dark


@pytest.mark.parametrize("number", range(4))
def test_on_y_the_figures_are_those_of_scikit_image_s_luminance_rounded_as_matlab_does(number: int) -> None:
    restored, reference = pair(number)
    one, other = (np.floor(rgb2ycbcr(picture(half))[..., 0] + 0.5) for half in (restored, reference))
    assert np.array_equal(y_levels(restored)[0, 0].numpy(), one)
    expected = peak_signal_noise_ratio(other, one, data_range=255)
    assert float(on_y(psnr)(restored, reference)) == pytest.approx(expected)
    assert float(on_y(ssim)(restored, reference)) == pytest.approx(similarity(one, other, channel_axis=None), abs=1e-9)


def test_y_goes_from_16_to_235_and_green_weighs_most() -> None:
    colours = torch.tensor([(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)], dtype=torch.uint8)
    assert y_levels(colours.T[None, :, None])[0, 0, 0].tolist() == [16, 235, 81, 145, 41]  # as rgb2ycbcr of MATLAB


def test_equal_pictures_have_finite_figures_and_black_ones_stay_black() -> None:
    reference = pair(0)[1]
    assert float(psnr(reference, reference)) == pytest.approx(10 * np.log10(255**2 / 1e-8))
    assert float(ssim(reference, reference)) == pytest.approx(1)
    black = torch.zeros_like(reference)
    assert float(gt_mean(psnr)(black, reference)) == float(psnr(black, reference))
    assert float(gt_mean(psnr)(black, black)) > 128


def test_every_picture_of_a_batch_has_the_figure_that_it_has_alone() -> None:
    one, other = (torch.cat([half, half.flip(-1) // 2]) for half in pair(0))
    for measure in FIDELITY.values():
        alone = [float(measure(one[place : place + 1], other[place : place + 1])) for place in (0, 1)]
        assert measure(one, other).tolist() == pytest.approx(alone, rel=1e-12)


def test_a_set_of_several_sizes_has_the_mean_over_its_usable_pictures() -> None:
    found = figures_of(0, 1)
    assert sorted(found) == ["psnr", "psnr_gt_mean", "psnr_y", "ssim", "ssim_gt_mean", "ssim_y"]
    for name, measure in FIDELITY.items():
        assert found[name] == pytest.approx(np.mean([float(measure(*pair(number))) for number in USED]))


@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_ranks_has_exactly_these_figures_on_every_rank(world: int) -> None:
    everyone: list[dict[str, Any]] = run_group(on_ranks, world)
    assert everyone == [figures_of(0, 1)] * world  # equal to the last bit


def test_a_set_without_a_usable_picture_has_no_figure() -> None:
    evaluator = FidelityEvaluator("psnr", psnr)
    restored, reference = pair(0)
    batch = {"row": torch.zeros(1, dtype=torch.int64), "valid": torch.zeros(1, dtype=torch.bool)}
    evaluator.update({"restored": restored, "reference": reference}, batch)
    assert evaluator.compute() == {}
