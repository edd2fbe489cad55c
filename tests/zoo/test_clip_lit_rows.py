"""Rows of CLIP-LIT: random changes that a picture shares with its stored results, and pairs left whole."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from tests.zoo.small_clips import SMALL

from lumiray.system import BadRow, Row
from lumizoo.clip_lit.augment import Augmentation
from lumizoo.clip_lit.prepare import squared
from lumizoo.clip_lit.system import ClipLitSystem

PLAIN = Augmentation(False, False, False, None, None)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def row(**parts: np.ndarray | bytes) -> Row:
    stored = {name: value if isinstance(value, bytes) else png(value) for name, value in parts.items()}
    return Row("key", {name.replace("_", "."): value for name, value in stored.items()}, 0)


def prepared(stage: str, given: Row, seed: int | None = 0) -> dict:
    system = ClipLitSystem(SMALL)
    found = next(one for one in system.stages() if one.name == stage)
    return system.prepare(found, given, None if seed is None else np.random.default_rng(seed))


def test_flips_and_quarter_turns_move_pixels_and_change_none() -> None:
    picture = photo(12, 12)
    changes = {
        Augmentation(True, False, False, None, None): picture[:, ::-1],
        Augmentation(False, True, False, None, None): picture[::-1],
        Augmentation(False, False, True, None, None): picture.swapaxes(0, 1),
        Augmentation(False, False, False, None, 90.0): np.rot90(picture),
        Augmentation(False, False, False, (1.0, 1.0), 0.0): picture,
        PLAIN: picture,
    }
    for change, wanted in changes.items():
        assert np.array_equal(change(picture), wanted), change


def test_a_zoom_magnifies_about_the_centre_by_each_factor() -> None:
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[15:25, 15:25] = 255
    lit = Augmentation(False, False, False, (1.5, 0.5), None)(picture)[10:30, :, 0] > 127  # further out, reflections
    rows, columns = (np.flatnonzero(lit.any(axis)) for axis in (1, 0))
    assert abs(len(columns) - 15) <= 1 and abs(len(rows) - 5) <= 1
    assert abs(rows.mean() + 10 - 19.5) < 1 and abs(columns.mean() - 19.5) < 1


def test_beyond_the_border_the_edge_itself_is_seen_first() -> None:
    picture = np.zeros((20, 20, 3), np.uint8)
    picture[:, 0] = 250
    small = Augmentation(False, False, False, (0.5, 1.0), None)(picture)[10, :, 0].astype(int)
    assert small.argmax() in (4, 5) and small[4:6].sum() >= 250  # the bright edge and its mirror image, side by side


def test_choices_are_drawn_at_the_published_odds_within_their_ranges() -> None:
    draw = np.random.default_rng(0)
    drawn = [Augmentation.drawn((0.7, 1.3), draw) for _ in range(2000)]
    for name in ("mirrored", "upside_down", "transposed"):
        assert np.mean([getattr(one, name) for one in drawn]) == pytest.approx(0.5, abs=0.05)
    zooms = np.array([one.zoom for one in drawn if one.zoom])
    turns = np.array([one.degrees for one in drawn if one.degrees is not None])
    assert len(zooms) / 2000 == pytest.approx(0.3, abs=0.04) and len(turns) / 2000 == pytest.approx(0.3, abs=0.04)
    assert zooms.min() >= 0.7 and zooms.max() <= 1.3 and np.corrcoef(zooms.T)[0, 1] == pytest.approx(0, abs=0.15)
    assert turns.min() < -80 and turns.max() > 80 and abs(turns).max() <= 90


def test_pictures_become_square_by_lanczos() -> None:
    picture = photo(30, 50)
    wanted = np.asarray(Image.fromarray(picture).resize((24, 24), Image.Resampling.LANCZOS))
    assert np.array_equal(squared(picture, 24), wanted)


@pytest.mark.parametrize(("stage", "size"), [("prompts", 48), ("reconstruct", 40), ("enhance-2", 40)])
def test_a_row_is_a_square_picture_that_its_generator_decides(stage: str, size: int) -> None:
    given = row(jpg=photo(30, 50))
    one, again, other = (prepared(stage, given, seed) for seed in (3, 3, 4))
    assert one.keys() == {"image"}
    assert (one["image"].shape, one["image"].dtype) == ((3, size, size), np.uint8)
    assert np.array_equal(one["image"], again["image"]) and not np.array_equal(one["image"], other["image"])


def test_stored_results_are_changed_as_their_picture() -> None:
    picture = squared(photo(30, 50), 48)
    given = row(png=picture, result1_png=picture, result2_png=255 - picture)
    seen = set()
    for seed in range(12):
        found = prepared("refine-2", given, seed)
        assert found["results"].shape == (2, 3, 48, 48)
        assert np.array_equal(found["results"][0], found["image"])
        assert np.abs(255 - found["results"][1].astype(int) - found["image"]).max() <= 1  # rounded by itself
        seen.add(found["image"].tobytes())
    assert len(seen) > 8
    assert prepared("refine-1", given)["results"].shape == (1, 3, 48, 48)


def test_a_well_lit_row_has_no_results_and_stacks_with_those_that_have() -> None:
    picture = photo(48, 48)
    rows = [prepared("refine-1", one) for one in (row(png=picture), row(png=picture, result1_png=picture))]
    assert not rows[0]["results"].any() and rows[1]["results"].any()
    assert ClipLitSystem(SMALL).collate(rows)["results"].shape == (2, 1, 3, 48, 48)


@pytest.mark.parametrize(
    ("stage", "bad", "told"),
    [
        ("prompts", row(txt=b"words"), r"the row has no picture \(it has txt\)"),
        ("enhance-1", row(png=b"broken"), r"^png: not a picture"),
        (
            "refine-2",
            row(png=photo(9, 9), result1_png=photo(9, 9)),
            r"no result2\.png: .*result1\.png and result2\.png",
        ),
        ("refine-1", row(png=photo(9, 9), result1_png=b"broken"), r"^result1\.png: not a picture"),
    ],
)
def test_rows_that_cannot_be_used_say_why(stage: str, bad: Row, told: str) -> None:
    with pytest.raises(BadRow, match=told):
        prepared(stage, bad)


def test_evaluation_takes_pairs_and_leaves_them_whole() -> None:
    dark, bright = photo(21, 50), photo(21, 50, seed=1)
    found = prepared("enhance-1", row(lq_png=dark, gt_png=bright), None)
    assert np.array_equal(found["lq"], dark.transpose(2, 0, 1)) and np.array_equal(
        found["gt"], bright.transpose(2, 0, 1)
    )
    with pytest.raises(BadRow, match="lq has 50 x 21 pixels and gt 21 x 50"):
        prepared("enhance-1", row(lq_png=dark, gt_png=photo(50, 21)), None)
