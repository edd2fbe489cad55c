"""Tiles: with a bounded receptive field the untiled result, without it no seams; memory does not follow the picture."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from small_restorer import SmallRestorer
from torch import Tensor

from lumiray.data.picture import luma
from lumiray.errors import UserError
from lumiray.evaluate.tiling import Tiling, restore_tiled, spans, tiling_of
from lumiray.train.meter import Meter


def photo(height: int, width: int, channels: int = 3, kind: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(
        0, np.iinfo(kind).max, (height, width, channels), dtype=kind, endpoint=True
    )


def small() -> tuple[SmallRestorer, Tiling]:
    system = SmallRestorer.made()
    return system, tiling_of(64, system.receptive_field, system.multiple)


@pytest.mark.parametrize("size", [(64, 64), (65, 200), (131, 77), (30, 100), (1, 1), (1, 150), (203, 66)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_with_a_bounded_receptive_field_tiles_change_nothing(size: tuple[int, int], kind: type) -> None:
    system, tiling = small()
    picture = photo(*size, kind=kind)
    tiled, whole = (restore_tiled(system.restore, picture, one) for one in (tiling, None))
    assert tiled.shape == picture.shape and tiled.dtype == kind
    apart = np.abs(tiled.astype(int) - whole) / np.iinfo(kind).max
    assert apart.max() <= 1 / 255 if kind == np.uint8 else apart.max() < 1e-4
    assert np.abs(whole.astype(int) - picture).mean() > 1  # the network does something


def test_without_the_margin_they_would_change_much() -> None:
    system, tiling = small()
    picture = photo(131, 77)
    careless = replace(tiling, margin=0)
    tiled, whole = (restore_tiled(system.restore, picture, one) for one in (careless, None))
    assert np.abs(tiled.astype(int) - whole).max() > 10


def test_batches_of_tiles_change_nothing_and_are_as_large_as_said() -> None:
    system, tiling = small()
    picture = photo(131, 300)
    seen: list[tuple[int, ...]] = []

    def watched(tiles: Tensor) -> Tensor:
        seen.append(tuple(tiles.shape))
        return system.restore(tiles)

    together = restore_tiled(watched, picture, replace(tiling, at_once=3))
    assert np.abs(together.astype(int) - restore_tiled(system.restore, picture, tiling)).max() <= 1
    assert max(shape[0] for shape in seen) == 3
    assert sum(shape[0] for shape in seen) == tiling.count(131, 300)
    assert max(max(shape[2:]) for shape in seen) == 64


def test_grey_is_restored_as_rgb_and_made_grey_again() -> None:
    system, tiling = small()
    picture = photo(90, 80, channels=1)
    as_rgb = system.restore(torch.from_numpy(np.repeat(picture, 3, 2)).permute(2, 0, 1)[None] / 255)
    expected = (luma(as_rgb)[0, 0] * 255).round().numpy()
    assert np.abs(restore_tiled(system.restore, picture, tiling)[..., 0] - expected).max() <= 1


@pytest.mark.parametrize("multiple", [1, 4, 8])
@pytest.mark.parametrize("field", [None, 1, 21])
@pytest.mark.parametrize("length", [1, 63, 64, 65, 100, 129, 640, 641])
def test_shares_add_up_and_tiles_begin_at_multiples(multiple: int, field: int | None, length: int) -> None:
    tiling = tiling_of(96, field, multiple)
    found = spans(length, tiling)
    total = torch.zeros(length)
    for one in found:
        assert one.start % multiple == 0
        assert one.stop - one.start <= 96
        total[one.start : one.stop] += one.share
    assert torch.allclose(total, torch.ones(length), atol=1e-6)
    assert found[-1].stop == length
    for one, after in pairwise(found):  # what the margin spoils takes no part
        margin = tiling.margin
        assert one.share[len(one.share) - margin :].sum() == 0
        assert after.share[:margin].sum() == 0


def test_tiles_that_differ_by_themselves_leave_no_seam() -> None:
    """Each call adds another level, as attention over the whole tile may: on a flat picture no edge is to be seen."""
    draw = np.random.default_rng(1)

    def moody(tiles: Tensor) -> Tensor:
        return tiles + float(draw.uniform(-0.2, 0.2))

    flat = np.full((300, 400, 3), 30_000, np.uint16)
    tiling = tiling_of(128, None, 8)
    restored = restore_tiled(moody, flat, tiling).astype(float) / 65535
    assert restored.max() - restored.min() > 0.1
    steps = max(np.abs(np.diff(restored, axis=axis)).max() for axis in (0, 1))
    assert steps < 2 * 0.4 / tiling.fade  # a seam would be a step of up to 0.4


def test_the_memory_of_tensors_does_not_grow_with_the_picture() -> None:
    system, tiling = small()

    def most(height: int, width: int) -> int:
        meter = Meter(iter(system.networks.parameters()))
        with meter:
            restore_tiled(system.restore, photo(height, width), tiling)
        return meter.most

    first = most(200, 200)
    assert most(1600, 200) <= 1.1 * first  # by how much the last two rows overlap
    assert most(200, 1600) <= first + 8 * 64 * 1600 * 3 * 4  # a few rows of tiles, as said


def test_tiles_that_are_all_overlap_are_refused() -> None:
    with pytest.raises(UserError, match=r"--tile 32: tiles overlap by \d+ pixels; they need at least 6\d"):
        tiling_of(32, 41, 4)
