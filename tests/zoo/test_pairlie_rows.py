"""Rows of exposures and pairs that PairLIE takes, those that it refuses, and settings that it refuses."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.conftest import ROOT
from tests.zoo.dark_scenes import TINY, built, exposed, photo, png, scene

from lumiray.errors import UserError
from lumiray.system import BadRow, Row
from lumizoo.pairlie.config import PairlieConfig
from lumizoo.pairlie.system import PairlieSystem


def prepared(row: Row, seed: int | None, config: PairlieConfig = TINY) -> dict[str, np.ndarray]:
    system = PairlieSystem(config)
    return system.prepare(system.stages()[0], row, None if seed is None else np.random.default_rng(seed))


def numbered(count: int, height: int = 40, width: int = 50) -> Row:
    """Exposures whose red is their number, and whose green and blue are the place of each pixel."""
    down, across = np.mgrid[:height, :width].astype(np.uint8)
    return scene(*(np.stack((np.full_like(down, number), down, across), -1) for number in range(count)))


def test_the_generator_decides_pair_order_and_window_and_all_have_the_same_window() -> None:
    row, pairs, windows = numbered(4), [], []
    for seed in range(300):
        found = prepared(row, seed)["exposures"]
        assert (found.shape, found.dtype) == ((2, 3, 24, 24), np.uint8)
        assert np.array_equal(found[0, 1:], found[1, 1:])  # places
        pairs.append((int(found[0, 0, 0, 0]), int(found[1, 0, 0, 0])))
        windows.append((int(found[0, 1, 0, 0]), int(found[0, 2, 0, 0])))
    assert np.array_equal(prepared(row, 7)["exposures"], prepared(row, 7)["exposures"])
    counts = {pair: pairs.count(pair) for pair in set(pairs)}
    assert set(counts) == {(one, other) for one in range(4) for other in range(4) if one != other}
    assert min(counts.values()) > 10  # 25 of each on average
    tops, lefts = zip(*windows, strict=True)
    assert (min(tops), max(tops), min(lefts), max(lefts)) == (0, 16, 0, 26)


def test_crops_are_neither_mirrored_nor_changed() -> None:
    found = prepared(numbered(2), 3)["exposures"][0].astype(int)
    assert (np.diff(found[1], axis=0) == 1).all() and (np.diff(found[2], axis=1) == 1).all()


def test_as_many_exposures_are_drawn_as_are_asked_for_each_once() -> None:
    config = replace(TINY, exposures=3)
    for seed in range(10):
        found = prepared(numbered(4), seed, config)["exposures"]
        assert found.shape == (3, 3, 24, 24)
        assert len(set(found[:, 0, 0, 0].tolist())) == 3


def test_evaluation_reads_whole_pairs() -> None:
    bright = photo(21, 50)  # less than the crop on one side
    row = Row("key", {"lq.png": png(exposed(bright, 0.2)), "gt.png": png(bright)}, 0)
    whole = prepared(row, None)
    assert np.array_equal(whole["gt"], bright.transpose(2, 0, 1))
    system = built()
    given = {name: torch.from_numpy(one)[None] for name, one in whole.items()}
    found = system.embed(given)
    assert np.array_equal(found["restored"][0].permute(1, 2, 0).numpy(), system.restore(exposed(bright, 0.2)))
    assert torch.equal(found["reference"], given["gt"])
    with pytest.raises(BadRow, match=r"no picture lq\.\* \(it has 0\.png, 1\.png\)"):
        prepared(numbered(2), None)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (numbered(1), r"no exposures 0\.\*, 1\.\* and so on, two or more without a hole \(it has 0\.png\)"),
        (numbered(2), r"2 exposures, fewer than the 3 of --exposures: ask for fewer"),
        (
            scene(*[photo(40, 50)] * 3, photo(50, 40)),  # whether it is drawn or not
            r"0\.png has 50 x 40 pixels and 3\.png 40 x 50: align the exposures of a scene and cut them to one size",
        ),
        (numbered(3, 40, 23), "23 x 40 pixels, fewer than the crop of 24 x 24: lower --crop-size"),
        (Row("key", numbered(2).parts | {"2.png": b"broken"}, 0), r"^2\.png: not a picture"),
    ],
)
def test_scenes_that_cannot_be_used_say_why(row: Row, told: str) -> None:
    for seed in range(3):
        with pytest.raises(BadRow, match=told):
            prepared(row, seed, replace(TINY, exposures=3))


def test_the_example_s_scenes_are_rows_that_a_run_takes_and_hold_no_photograph_that_is_held_out() -> None:
    sys.path.insert(0, str(ROOT / "examples" / "exposures"))
    from scenes import scenes
    from split_photographs import PHOTOGRAPHS

    rows = dict(scenes())
    assert len(rows) == 100
    assert not {name.rsplit("-", 1)[0] for name in rows} & set(PHOTOGRAPHS["held-out"])
    for exposures in rows.values():
        means = [one.mean() for one in exposures]
        assert means == sorted(means) and means[0] > 0
    (first, *_) = rows.values()
    assert prepared(scene(*first), 0, PairlieConfig(crop_size=32))["exposures"].shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"crop_size": 2}, "--crop-size is 2; it must be at least 3"),
        ({"exposures": 1}, "--exposures is 1; it must be at least 2"),
        ({"width": 0}, "--width is 0"),
        ({"projection_weight": -1.0}, "--projection-weight is -1.0; it must be at least 0"),
        ({"exponent": -0.2}, "--exponent is -0.2"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_option(setting: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        PairlieConfig(**setting)
