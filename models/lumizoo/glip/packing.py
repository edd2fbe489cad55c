"""Captions of other pictures around a picture's own: what they speak of is not there (card glip, Self-training)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lumiray.errors import UserError
from lumizoo.glip.prompts import SPECIAL_TOKENS
from lumizoo.glip.tokens import Spans, Tokenizer

ALONE = 0.4  # of captions have no other beside them
MOST = 20


def captions_in(path: str) -> list[str]:
    """The captions of a file, one a line; lines without a word are left out.

    Raises:
        UserError: it cannot be read, or holds none.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--other-captions {path}: cannot be read ({type(error).__name__}).") from None
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise UserError(f"--other-captions {path} holds no caption; write one a line.")
    return found


def number_of_others(draw: np.random.Generator) -> int:
    """How many others are drawn: none (0.4), else as often 20 as any smaller number."""
    if draw.random() < ALONE:
        return 0
    return MOST if draw.random() < 0.5 else int(draw.integers(MOST))


def packed(
    text: str, spans: Sequence[Spans], others: Sequence[str], tokenizer: Tokenizer, draw: np.random.Generator
) -> tuple[str, tuple[tuple[tuple[int, int], ...], ...]]:
    """A caption among others in random order, each ended by a dot and a blank, and its spans moved along.

    Of what was drawn so much is taken as leaves every token its place; the own caption is taken in any case.
    """
    drawn = [others[number] for number in draw.integers(len(others), size=number_of_others(draw)).tolist()]
    own = ended(text)
    room = tokenizer.length - SPECIAL_TOKENS - tokenizer.count(own)
    chosen = []
    for other in map(ended, drawn):
        room -= tokenizer.count(other)
        if room < 0:
            break
        chosen.append(other)
    place = int(draw.integers(len(chosen) + 1))
    shift = sum(map(len, chosen[:place]))
    moved = tuple(tuple((begin + shift, end + shift) for begin, end in several) for several in spans)
    return "".join([*chosen[:place], own, *chosen[place:]]), moved


def ended(caption: str) -> str:
    """A caption with a dot and a blank at its end; the place of nothing in it changes."""
    return caption + (" " if caption.rstrip().endswith(".") else ". ")
