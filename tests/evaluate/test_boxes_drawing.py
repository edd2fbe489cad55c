"""Boxes upon a picture: where they are, in which colours, and words that do not cover each other."""

from __future__ import annotations

import numpy as np
from PIL import ImageColor

from lumiray.evaluate.boxes_drawing import COLOURS, LEAST_SIDE, with_boxes

GREY = np.full((400, 600, 3), 128, np.uint8)


def of_colour(sheet: np.ndarray, number: int) -> np.ndarray:
    return np.all(sheet == ImageColor.getrgb(COLOURS[number]), axis=2)


def test_every_box_has_the_colour_of_its_phrase_and_reaches_its_last_pixel() -> None:
    boxes = [[50, 100, 249, 299], [300, 150, 599, 399]]
    sheet = np.asarray(with_boxes(GREY, boxes, [2, 1], ["a dog", "a frisbee"], [0.9, 0.5]))
    assert sheet.shape == GREY.shape
    for (left, top, right, bottom), colour in zip(boxes, (1, 0), strict=True):
        drawn = of_colour(sheet, colour)
        assert drawn[top : bottom + 1, left].all() and drawn[top : bottom + 1, right].all()
        assert drawn[bottom, left : right + 1].all()
        assert not drawn[:, :left].any() and not drawn[bottom + 1 :].any()
        assert drawn[top - 10 : top, left + 2].all()  # its words stand above it
        assert np.array_equal(sheet[bottom - 20, left + 20], [128] * 3)  # and leave it free


def test_a_small_picture_is_enlarged_pixel_by_pixel() -> None:
    sheet = np.asarray(with_boxes(GREY[:20, :40], [[10, 8, 19, 15]], [1], ["a"], [1.0]))
    factor = LEAST_SIDE // 40
    assert sheet.shape == (20 * factor, 40 * factor, 3)
    drawn = of_colour(sheet, 0)
    assert drawn[16 * factor - 1, 10 * factor : 20 * factor].all() and not drawn[16 * factor :].any()


def test_words_stand_beside_each_other_and_long_ones_keep_their_score() -> None:
    boxes, long = [[20, 0, 500, 350]] * 3, "a very long phrase " * 20
    sheet = np.asarray(with_boxes(GREY, boxes, [1, 2, 3], ["one", long, "two"], [0.9, 0.8, 0.7]))
    fields = [set(np.flatnonzero(of_colour(sheet, number)[:340].sum(1) > 20)) - {0, 1} for number in range(3)]
    assert all(len(rows) > 10 for rows in fields)
    assert not (fields[0] & fields[1] or fields[0] & fields[2] or fields[1] & fields[2])
    again = np.asarray(with_boxes(GREY, boxes, [1, 2, 3], ["one", long, "two"], [0.9, 0.1, 0.7]))
    assert (sheet != again).any()  # the score of the long one is not what was cut


def test_nothing_found_leaves_the_picture_as_it_is() -> None:
    assert np.array_equal(np.asarray(with_boxes(GREY, [], [], [], [])), GREY)
