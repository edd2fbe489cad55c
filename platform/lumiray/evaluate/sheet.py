"""A sheet of queries with their best pictures, for people to look at."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE, GAP, TEXT_WIDTH, MARGIN = 84, 14, 330, 24
MOST_LETTERS = 200  # of a caption, before it is measured; more never fit
RIGHT, FRAME, INK, GREY = "#12a150", "#d4d7dd", "#1b1f27", "#6b7280"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Query:
    """One line of the sheet.

    Args:
        text: what was asked for.
        pictures: the best ones, best first, uint8 `(H, W, 3)`.
        right: place of the right one among them, None if it is not there.
        rank: 0-based rank of the right one among all candidates.
    """

    text: str
    pictures: Sequence[np.ndarray]
    right: int | None
    rank: int


def query_sheet(queries: Sequence[Query]) -> bytes:
    """PNG of the sheet: the right picture framed in green, its rank said."""
    columns = max((len(query.pictures) for query in queries), default=0)
    width = 2 * MARGIN + TEXT_WIDTH + columns * (SIDE + GAP)
    height = 2 * MARGIN + len(queries) * (SIDE + GAP)
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(size=17), ImageFont.load_default(size=13)
    for number, query in enumerate(queries):
        top = MARGIN + number * (SIDE + GAP)
        pen.text((MARGIN, top + 18), shortened(query.text, pen, large, TEXT_WIDTH - 16), fill=INK, font=large)
        found = f"right picture at rank {query.rank + 1}"
        pen.text((MARGIN, top + 46), found, fill=RIGHT if query.right is not None else GREY, font=small)
        for place, picture in enumerate(query.pictures):
            left = MARGIN + TEXT_WIDTH + place * (SIDE + GAP)
            tile = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(tile, (left, top))
            good = place == query.right
            frame = (left - 4, top - 4, left + SIDE + 3, top + SIDE + 3)
            pen.rectangle(frame, outline=RIGHT if good else FRAME, width=4 if good else 1)
    encoded = io.BytesIO()
    sheet.save(encoded, "PNG")
    return encoded.getvalue()


def shortened(text: str, pen: ImageDraw.ImageDraw, font: Font, width: float) -> str:
    """The beginning of a text, on one line, that is at most so wide in pixels."""
    text = " ".join(text[:MOST_LETTERS].split())  # a pen measures single lines only, and each letter costs it time
    while text and pen.textlength(text, font=font) > width:
        text = text[:-2].rstrip("…") + "…"
    return text
