"""Boxes with their words drawn upon a picture, a colour for each phrase, letters as large as the picture asks for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lumiray.evaluate.sheet import shortened

COLOURS = ("#e6194b", "#1f77d0", "#2ca02c", "#ff9f1c", "#8e44ad", "#00a8a8", "#c2185b", "#7f6000")
LEAST_SIDE = 320  # of a drawing: smaller pictures are enlarged by a whole number, pixel by pixel
LEAST_LETTER, LETTERS = 13, 32  # letters are this high, or this part of the picture's short side

_Area = tuple[float, float, float, float]


def with_boxes(
    picture: np.ndarray,
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    phrases: Sequence[str],
    scores: Sequence[float],
) -> Image.Image:
    """A picture with boxes, each with its phrase and score in a field of its colour beside it.

    Args:
        picture: uint8 RGB `(H, W, 3)`.
        boxes: best first; x1, y1, x2, y2 in its pixels, the last pixel belongs to the box.
        labels: number of each box's phrase, from 1 on: boxes of one phrase have one colour.
        phrases: for each box; cut where the picture is too narrow.
        scores: for each box.
    """
    factor = max(1, -(-LEAST_SIDE // max(picture.shape[:2])))
    sheet = Image.fromarray(picture)
    sheet = sheet.resize((sheet.width * factor, sheet.height * factor), Image.Resampling.NEAREST)
    size = max(LEAST_LETTER, min(sheet.size) // LETTERS)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=size)
    colours = [COLOURS[(label - 1) % len(COLOURS)] for label in labels]
    corners = [(x1 * factor, y1 * factor, (x2 + 1) * factor - 1, (y2 + 1) * factor - 1) for x1, y1, x2, y2 in boxes]
    for corner, colour in reversed(list(zip(corners, colours, strict=True))):  # the best one is drawn last
        pen.rectangle(corner, outline=colour, width=max(2, size // 6))
    taken: list[_Area] = []
    for corner, colour, phrase, score in zip(corners, colours, phrases, scores, strict=True):
        figure = f" {score:.2f}"
        text = shortened(phrase, pen, font, sheet.width - size - pen.textlength(figure, font=font)) + figure
        wide, high = round(pen.textlength(text, font=font) + 0.6 * size), round(1.4 * size)
        field = _place(corner, wide, high, sheet.size, taken)
        taken.append(field)
        pen.rectangle((field[0], field[1], field[2] - 1, field[3] - 1), fill=colour)
        middle = (field[1] + field[3]) / 2
        pen.text((field[0] + 0.3 * size, middle), text, fill=_ink(colour), font=font, anchor="lm")
    return sheet


def _place(corner: _Area, wide: float, high: float, sheet: tuple[int, int], taken: Sequence[_Area]) -> _Area:
    """Where words stand: above their box, in it or below it, where nothing stands yet and the picture has room."""
    left = max(0.0, min(corner[0], sheet[0] - wide))
    inside = [corner[1] + step * high for step in range(max(1, int((corner[3] - corner[1]) // high)))]
    places = []
    for top in (corner[1] - high, *inside, corner[3] + 1):
        top = max(0.0, min(top, sheet[1] - high))
        places.append((left, top, left + wide, top + high))
    return next((one for one in places if not any(_meet(one, other) for other in taken)), places[0])


def _meet(one: _Area, other: _Area) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _ink(colour: str) -> str:
    """Black or white, whichever is read better upon a colour (luminance of ITU-R BT.601)."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"
