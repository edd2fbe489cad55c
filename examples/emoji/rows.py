"""Cut the emoji sheets into pictures and tables: rows for `lumiray shards make`.

    python examples/emoji/rows.py OUTPUT

writes `OUTPUT/noto/` and `OUTPUT/twemoji/`, each with one PNG per emoji on a white ground, and `noto.csv` and
`twemoji.csv` with the columns filepath, title, short_names, category, subcategory.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
ARTISTS = ("noto", "twemoji")
CELL, SIDE = 34, 32  # a cell of the sheet has one pixel of border around 32 x 32


@dataclass(frozen=True)
class Emoji:
    """One emoji: its code points as key, its names, and its place in the sheets."""

    key: str
    name: str
    short_names: tuple[str, ...]
    category: str
    subcategory: str
    column: int
    row: int


def emojis() -> list[Emoji]:
    """All 1,911, in the order of their code points."""
    rows = json.loads((HERE / "names.json").read_text())
    return [Emoji(**{**row, "short_names": tuple(row["short_names"])}) for row in rows]


def drawings(artist: str) -> Iterator[tuple[Emoji, Image.Image]]:
    """Every emoji with an artist's picture of it, RGBA 32 x 32."""
    sheet = Image.open(HERE / f"{artist}.png").convert("RGBA")
    for one in emojis():
        left, top = one.column * CELL + 1, one.row * CELL + 1
        yield one, sheet.crop((left, top, left + SIDE, top + SIDE))


def pictures(artist: str) -> Iterator[tuple[Emoji, Image.Image]]:
    """Every emoji with an artist's picture of it, RGB 32 x 32 on white."""
    for one, drawn in drawings(artist):
        ground = Image.new("RGBA", drawn.size, "white")
        yield one, Image.alpha_composite(ground, drawn).convert("RGB")


def write_rows(output: Path, artist: str, part: str = "", keep: Callable[[int], bool] = lambda number: True) -> Path:
    """Write an artist's pictures and a table of them; returns the table.

    Args:
        part: follows the artist in the table's name.
        keep: which emoji the table lists, by their number.
    """
    folder = output / artist
    folder.mkdir(parents=True, exist_ok=True)
    table = output / f"{artist}{part}.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["filepath", "title", "short_names", "category", "subcategory"])
        for number, (one, picture) in enumerate(pictures(artist)):
            if not keep(number):
                continue
            picture.save(folder / f"{one.key}.png")
            names = " ".join(one.short_names)
            writer.writerow([f"{artist}/{one.key}.png", one.name, names, one.category, one.subcategory])
    return table


def main(arguments: list[str]) -> None:
    """Command line."""
    if len(arguments) != 1:
        sys.exit(f"usage: {Path(sys.argv[0]).name} OUTPUT")
    for artist in ARTISTS:
        print(write_rows(Path(arguments[0]), artist))


if __name__ == "__main__":
    main(sys.argv[1:])
