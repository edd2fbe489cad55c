"""A contact sheet: some rows of a set of shards as one picture, with their captions."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lumiray import storage
from lumiray.data.decode import decode
from lumiray.data.describe import sample_ordinals
from lumiray.data.index import ShardSet
from lumiray.data.listing import expand
from lumiray.data.parts import caption_in, pictures_in
from lumiray.system import BadRow, Row

if TYPE_CHECKING:
    from PIL.Image import Image

_CELL, _TEXT, _GAP, _COLUMNS = 160, 44, 8, 6  # pixels, and pictures in a row
_LINE_CHARACTERS = 26


def write_sheet(patterns: str | Sequence[str], output: str, rows: int = 24) -> None:
    """Write a PNG of `rows` rows spread over the shards.

    Raises:
        UserError: as `ShardSet.open`, or the output cannot be written.
    """
    shards = ShardSet.open(expand(patterns))
    buffer = io.BytesIO()
    sheet_of(shards.read(sample_ordinals(shards.num_rows, rows))).save(buffer, "PNG")
    storage.write_atomically(output, buffer.getvalue())


def sheet_of(rows: Sequence[Row | BadRow]) -> Image:
    """The sheet as a PIL picture; a row that cannot be shown says why in its place."""
    from PIL import Image, ImageDraw, ImageFont

    lines = -(-max(1, len(rows)) // _COLUMNS)
    step = _CELL + _GAP
    sheet = Image.new("RGB", (_COLUMNS * step + _GAP, lines * (step + _TEXT) + _GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for number, row in enumerate(rows):
        left, top = _GAP + number % _COLUMNS * step, _GAP + number // _COLUMNS * (step + _TEXT)
        try:
            if not isinstance(row, Row):
                raise row
            names = pictures_in(row.parts)
            if not names:
                raise BadRow("there is no picture")
            picture = Image.fromarray(np.ascontiguousarray(decode(row.parts[names[0]])))
            picture.thumbnail((_CELL, _CELL))
            sheet.paste(picture, (left + (_CELL - picture.width) // 2, top + (_CELL - picture.height) // 2))
            text = caption_in(row.parts) or row.key
        except BadRow as error:
            pen.rectangle((left, top, left + _CELL - 1, top + _CELL - 1), outline="red")
            text = str(error)
        short = textwrap.shorten(text, 3 * _LINE_CHARACTERS, placeholder="...")
        pen.multiline_text((left, top + _CELL + 2), textwrap.fill(short, _LINE_CHARACTERS), "black", font)
    return sheet
