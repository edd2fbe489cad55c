"""The sheet of queries: the right picture is framed, and no caption breaks it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageColor

from lumiray.evaluate.sheet import GAP, MARGIN, RIGHT, SIDE, TEXT_WIDTH, Query, query_sheet

COLOURS = [(200, 30, 30), (30, 30, 200), (240, 200, 20)]


def pictures() -> list[np.ndarray]:
    return [np.full((20, 30, 3), colour, np.uint8) for colour in COLOURS]


def sheet_of(*queries: Query) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(query_sheet(queries))).convert("RGB"))


@pytest.mark.parametrize("right", [None, 0, 2])
def test_pictures_stand_in_their_order_and_the_right_one_is_framed(right: int | None) -> None:
    plain = Query("one", pictures(), None, 17)
    sheet = sheet_of(plain, Query("another", pictures(), right, 3))
    top = MARGIN + SIDE + GAP
    for place, colour in enumerate(COLOURS):
        left = MARGIN + TEXT_WIDTH + place * (SIDE + GAP)
        assert tuple(sheet[top + SIDE // 2, left + SIDE // 2]) == colour
        framed = tuple(sheet[top + SIDE // 2, left - 2]) == ImageColor.getrgb(RIGHT)
        assert framed == (place == right)


@pytest.mark.parametrize(
    "caption", ["", "two\nlines\tof text", "word " * 2_000, "w" * 10_000, "猫と犬 🐱", "<b>&amp;", "\x00\x07"]
)
def test_no_caption_runs_into_the_pictures(caption: str) -> None:
    sheet = sheet_of(Query(caption, pictures(), 0, 0))
    assert sheet.shape == sheet_of(Query("short", pictures(), 0, 0)).shape
    assert (sheet[:, MARGIN + TEXT_WIDTH - 16 : MARGIN + TEXT_WIDTH - 5] == 255).all()


def test_a_sheet_without_queries_is_a_picture_all_the_same() -> None:
    assert sheet_of().ndim == 3
