"""Rows of CodeFormer: what of a picture is trained on, and how it is made worse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.zoo.codeformer_faces import SIZE, TINY, face

from lumiray.data.picture_file import Picture, png
from lumiray.system import BadRow, Row
from lumizoo.codeformer.degradation import SLIGHT, STRONG, Degradation, blur_kernel, degraded
from lumizoo.codeformer.system import CodeformerSystem

STAGES = {"vqgan": ("clean",), "codes": ("clean", "degraded"), "features": ("clean", "degraded", "degraded_slightly")}
MILD = Degradation(blur=(0.1, 0.1), shrink=(1, 1), noise=(0, 0), quality=(100, 100))  # changes next to nothing


def row(picture: np.ndarray, identity: int = 0) -> Row:
    return Row("key", {"png": png(Picture(picture))}, identity)


def prepared(stage: str, given: Row, seed: int | None = None, crop: bool = False) -> dict[str, np.ndarray]:
    system = CodeformerSystem(replace(TINY, crop=crop))
    one = next(one for one in system.stages() if one.name == stage)
    return system.prepare(one, given, None if seed is None else np.random.default_rng(seed))


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("seed", [None, 0])
def test_a_row_becomes_levels_of_one_size_and_follows_its_draw(stage: str, seed: int | None) -> None:
    one, again = (prepared(stage, row(face()), seed) for _ in range(2))
    assert tuple(one) == STAGES[stage]
    for name, value in one.items():
        assert (value.dtype, value.shape) == (np.uint8, (3, SIZE, SIZE)) and value.flags.c_contiguous
        assert np.array_equal(value, again[name])


def test_half_of_all_faces_are_mirrored_with_their_worse_versions() -> None:
    picture = face()
    straight = 0
    for seed in range(40):
        found = prepared("features", row(picture), seed)
        mirrored = found["clean"][..., ::-1]
        assert any(np.array_equal(one, picture.transpose(2, 0, 1)) for one in (found["clean"], mirrored))
        straight += np.array_equal(found["clean"], picture.transpose(2, 0, 1))
        assert difference(found["degraded_slightly"], found["clean"]) < difference(found["degraded_slightly"], mirrored)
    assert 10 < straight < 30


def test_evaluation_mirrors_nothing_and_degrades_by_the_row_s_identity() -> None:
    picture = face()
    first, other = (prepared("codes", row(picture, identity)) for identity in (1, 2))
    assert np.array_equal(first["clean"], picture.transpose(2, 0, 1))
    assert np.array_equal(first["clean"], other["clean"])
    assert not np.array_equal(first["degraded"], other["degraded"])


def test_whole_faces_are_resized_and_must_be_square() -> None:
    assert difference(prepared("vqgan", row(face(2 * SIZE)))["clean"], face().transpose(2, 0, 1)) < 4
    with pytest.raises(BadRow, match=r"the picture has 60 x 50 pixels, and aligned faces are square; --crop true"):
        prepared("vqgan", row(face(60)[:50]), 0)
    with pytest.raises(BadRow, match="the row has no picture"):
        prepared("vqgan", Row("key", {"txt": b"a"}, 0), 0)


def test_crops_of_photographs_come_from_everywhere_and_in_evaluation_from_the_centre() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8)
    squares = {prepared("vqgan", row(picture), seed, crop=True)["clean"].tobytes() for seed in range(20)}
    assert len(squares) > 15
    centre = prepared("vqgan", row(picture), crop=True)["clean"]
    assert np.array_equal(centre, picture[6:54, 11:59].transpose(2, 0, 1))
    with pytest.raises(BadRow, match=r"50 x 40 pixels, fewer than the crop of 48 x 48"):
        prepared("vqgan", row(picture[:40, :50]), 0, crop=True)


def test_kernels_are_round_or_long_and_sum_to_1() -> None:
    round_ones = 0
    for seed in range(40):
        kernel = blur_kernel((1, 5), np.random.default_rng(seed))
        assert kernel.shape == (41, 41) and kernel.dtype == np.float32
        assert kernel.sum() == pytest.approx(1, abs=1e-5)
        assert np.unravel_index(kernel.argmax(), kernel.shape) == (20, 20)
        assert np.allclose(kernel, kernel[::-1, ::-1], atol=1e-7)
        round_ones += np.allclose(kernel, kernel.T, atol=1e-7) and np.allclose(kernel, kernel[::-1], atol=1e-7)
    assert 10 < round_ones < 30


def test_a_kernel_has_the_deviation_that_was_drawn() -> None:
    place = np.arange(41) - 20
    across, down = np.meshgrid(place, place)
    for seed in range(10):
        kernel = blur_kernel((3, 3), np.random.default_rng(seed))
        assert (kernel * (across**2 + down**2)).sum() == pytest.approx(2 * 3**2, rel=1e-3)


def test_colours_and_places_stay_where_they_were() -> None:
    picture = face()
    picture[:, :, 0] = 200  # red: a change of the order of channels would show
    picture[:, :, 2] = 30
    worse = degraded(picture, MILD, np.random.default_rng(0))
    assert worse.dtype == np.uint8 and difference(worse, picture) < 2


@pytest.mark.parametrize(
    ("how", "least"),
    [({"blur": (8, 8)}, 4), ({"shrink": (12, 12)}, 4), ({"noise": (20, 20)}, 10), ({"quality": (5, 5)}, 3)],
)
def test_each_part_of_a_degradation_does_something(how: dict, least: float) -> None:
    detailed = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    mild = degraded(detailed, MILD, np.random.default_rng(1))
    assert difference(degraded(detailed, replace(MILD, **how), np.random.default_rng(1)), mild) > least


def test_noise_has_the_deviation_that_was_drawn_and_differs_between_channels() -> None:
    grey = np.full((96, 96, 3), 128, np.uint8)
    noise = degraded(grey, replace(MILD, noise=(10, 10)), np.random.default_rng(0)).astype(float) - 128
    assert 7 < noise.std() < 11  # JPEG takes some of the colours away
    correlation = np.corrcoef(noise.reshape(-1, 3).T)
    assert abs(correlation[0, 1]) < 0.9  # not 1: what JPEG leaves of the differences between channels


def test_strong_is_worse_than_slight() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    means = [
        np.mean([difference(degraded(picture, how, np.random.default_rng(seed)), picture) for seed in range(20)])
        for how in (SLIGHT, STRONG)
    ]
    assert means[0] < means[1]
    assert (STRONG.blur, STRONG.shrink, STRONG.noise, STRONG.quality) == ((1, 15), (4, 30), (0, 20), (30, 80))
    assert (SLIGHT.blur, SLIGHT.shrink, SLIGHT.noise, SLIGHT.quality) == ((0.1, 10), (1, 12), (0, 15), (60, 100))
