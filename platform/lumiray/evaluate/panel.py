"""A PNG of one picture of an evaluation: input, restored and reference side by side, with its figures below."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lumiray.evaluate.sheet import GREY, INK, shortened

MARGIN, GAP, LINE = 16, 12, 22
LEAST_WIDTH = 240  # of a shown picture: smaller ones are enlarged by a whole number, pixel by pixel


def panel(pictures: Mapping[str, np.ndarray], lines: Sequence[str]) -> bytes:
    """Draw it.

    Args:
        pictures: by the word that stands above each, uint8 RGB `(H, W, 3)`, all of one size.
        lines: below, in single lines, each cut where the panel ends; may hold anything.
    """
    height, width = next(iter(pictures.values())).shape[:2]
    factor = max(1, -(-LEAST_WIDTH // width))
    height, width = height * factor, width * factor
    across = 2 * MARGIN + len(pictures) * (width + GAP) - GAP
    sheet = Image.new("RGB", (across, 2 * MARGIN + LINE + height + GAP + LINE * len(lines)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for number, (word, picture) in enumerate(pictures.items()):
        left = MARGIN + number * (width + GAP)
        pen.text((left, MARGIN), word, fill=GREY, font=font)
        shown = Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(shown, (left, MARGIN + LINE))
    for number, line in enumerate(lines):
        top = MARGIN + LINE + height + GAP + number * LINE
        pen.text((MARGIN, top), shortened(line, pen, font, across - 2 * MARGIN), fill=INK, font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()
