"""Captions that are packed with others: spans name what they named, all tokens have a place, draws decide alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tests.zoo.glip_squares import VOCABULARY, prepared, row, squares, tiny

from lumiray.errors import UserError
from lumizoo.glip.packing import ended, number_of_others, packed
from lumizoo.glip.system import GlipSystem
from lumizoo.glip.tokens import Tokenizer

OTHERS = ("a green square", "the red square.", "one blue square")


def test_spans_name_the_same_words_wherever_the_caption_ends_up() -> None:
    tokenizer, draw = Tokenizer(list(VOCABULARY), 24), np.random.default_rng(0)
    text, spans = "a red square left of the blue square", (((2, 5), (6, 12)), ((25, 29),))
    places = Counter()
    for _ in range(200):
        found, moved = packed(text, spans, OTHERS, tokenizer, draw)
        assert [[found[begin:end] for begin, end in one] for one in moved] == [["red", "square"], ["blue"]]
        assert tokenizer.count(found) + 2 <= tokenizer.length
        assert found.endswith(". ") and ".." not in found
        rest = found.replace(ended(text), "", 1)
        for other in OTHERS:
            rest = rest.replace(ended(other), "")
        assert not rest
        places[found.index(text)] += 1
    assert len(places) > 3 and places[0] > 80  # 0.4 of them alone, others by chance


def test_a_long_caption_stays_alone() -> None:
    tokenizer, draw = Tokenizer(list(VOCABULARY), 6), np.random.default_rng(0)
    for _ in range(50):
        assert packed("a red square", (((2, 5),),), OTHERS, tokenizer, draw)[0] == "a red square. "


def test_others_are_none_twenty_or_any_fewer_as_published() -> None:
    draw = np.random.default_rng(0)
    found = Counter(number_of_others(draw) for _ in range(20_000))
    assert found[0] / 20_000 == pytest.approx(0.4 + 0.3 / 20, abs=0.02)
    assert found[20] / 20_000 == pytest.approx(0.3, abs=0.02)
    assert set(found) == set(range(21))


def test_rows_with_captions_are_packed_and_others_are_not(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("\n".join(OTHERS) + "\n \n")
    picture, told = squares(np.random.default_rng(1))
    system = GlipSystem(tiny(tmp_path, other_captions=str(tmp_path / "captions.txt"), max_tokens=64))
    lengths = set()
    for seed in range(20):
        found = prepared(system, row(picture, **told), seed)
        assert found["words"].sum(1).tolist() == [1, 1]
        lengths.add(int(found["mask"].sum()))
        again = prepared(system, row(picture, **told), seed)
        assert all(np.array_equal(found[name], again[name]) for name in found)
    assert len(lengths) > 2
    classes = row(picture, boxes=told["boxes"], classes=["red", "blue"], labels=[0, 1])
    assert all(prepared(system, classes, seed)["mask"].sum() <= 5 for seed in range(10))


@pytest.mark.parametrize(("text", "told"), [(None, "cannot be read"), (" \n", "holds no caption")])
def test_a_file_without_captions_is_refused_before_anything_starts(tmp_path: Path, text: str | None, told: str) -> None:
    file = tmp_path / "captions.txt"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=told):
        GlipSystem(tiny(tmp_path, other_captions=str(file))).portable()
