"""The table of an evaluation as CSV and as a page: figures that add up, and keys that can do no harm."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from PIL import Image

from lumiray.evaluate.panel import GAP, LEAST_WIDTH, LINE, MARGIN, panel
from lumiray.evaluate.picture_table import PictureTable, literal, to_csv, to_markdown

EVIL = "../|`<script>\n=cmd\u202e" + "x" * 100
KEYS = ("a", "=1+1", EVIL, "-b", "folder/c", "\udcff")
PSNR = (20.0, 10.0, 30.0, 10.0, 40.0, 15.0)
SSIM = (0.5, 0.25, 0.75, 0.5, 1.0, 1 / 3)
TABLE = PictureTable(range(6), range(6), ("00.tar",) * 6, KEYS, {"psnr": PSNR, "ssim": SSIM})


def test_the_csv_has_a_line_for_each_picture_with_figures_to_the_last_bit() -> None:
    lines = list(csv.reader(io.StringIO(to_csv(TABLE).decode(), newline="")))
    assert lines[0] == ["row", "shard", "key", "psnr", "ssim"]
    assert [int(line[0]) for line in lines[1:]] == list(range(6))
    assert [float(line[4]) for line in lines[1:]] == list(SSIM)
    assert [line[2] for line in lines[1:]] == ["a", "'=1+1", EVIL, "'-b", "folder/c", "\\udcff"]


def test_the_page_says_mean_median_and_both_ends_by_the_first_measure() -> None:
    text = to_markdown("net", ("one fact",), TABLE, ("worst/1.png",), {"niqe": "no weights"}).decode()
    assert text.startswith("# net\n\n* one fact\n")
    assert "| measure over 6 pictures | mean | median | lowest | highest |" in text
    assert "| psnr | 20.83 dB | 17.50 dB | 10.00 dB | 40.00 dB |" in text
    assert "| ssim | 0.5556 | 0.5000 | 0.2500 | 1.0000 |" in text
    worst, best = text.split("## Best by psnr")
    assert worst.index("`=1+1`") < worst.index("`-b`") < worst.index("| 15.00 dB") < worst.index("| 20.00 dB")
    assert best.index("`folder/c`") < best.index("| 30.00 dB") < best.index("`a`")
    assert "![1](worst/1.png)" in worst
    assert text.endswith("## Not computed\n\n* niqe: no weights\n")
    assert "<script>\n" not in text


def test_untrusted_text_is_one_piece_of_code_in_one_cell() -> None:
    shown = literal(EVIL)
    assert shown[0] == shown[-1] == "`" and shown.count("`") == 2
    assert "\\|" in shown and "\n" not in shown and "\u202e" not in shown and len(shown) < 70
    assert literal("plain.key_1") == "`plain.key_1`"


@pytest.mark.parametrize("line", ["short", EVIL, "w" * 10_000, "猫\n\x00"])
def test_a_panel_shows_pictures_side_by_side_and_no_caption_changes_its_size(line: str) -> None:
    colours = {"input": (200, 30, 30), "restored": (30, 200, 30), "reference": (30, 30, 200)}
    pictures = {word: np.full((20, 100, 3), colour, np.uint8) for word, colour in colours.items()}
    drawn = np.asarray(Image.open(io.BytesIO(panel(pictures, (line, "psnr 10.00 dB")))).convert("RGB"))
    width, height = 300, 60  # enlarged by 3, so that it has at least LEAST_WIDTH
    assert width >= LEAST_WIDTH
    assert drawn.shape == (2 * MARGIN + LINE + height + GAP + 2 * LINE, 2 * MARGIN + 3 * width + 2 * GAP, 3)
    for number, colour in enumerate(colours.values()):
        left = MARGIN + number * (width + GAP)
        shown = drawn[MARGIN + LINE : MARGIN + LINE + height, left : left + width]
        assert (shown == colour).all()
    assert (drawn[:, -MARGIN:] == 255).all()
