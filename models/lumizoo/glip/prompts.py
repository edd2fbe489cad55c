"""Names of classes as a text, and the spans of the names in it (card glip, Data: Detection to grounding)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lumizoo.glip.tokens import Tokenizer

SEPARATOR = ". "
SPECIAL_TOKENS = 2  # [CLS] and [SEP]
CHUNK = 40  # names of a text where all of them do not fit into one (card glip, Inference)
_SIDES = {"left": "right", "right": "left"}


@dataclass(frozen=True)
class ClassName:
    """How a text speaks of a class; its boxes are matched with the name alone (card glip, Inference)."""

    name: str
    prefix: str = ""
    suffix: str = ""

    @property
    def cleaned(self) -> str:
        """The name as it is put into a text."""
        return clean(self.name)

    @property
    def text(self) -> str:
        """All that a text has of the class."""
        return f"{self.prefix}{self.cleaned}{self.suffix}"


@dataclass(frozen=True)
class Prompt:
    """A text and what it names.

    Args:
        numbers: of the classes, in the order of the text.
        spans: [begin, end) of each of them.
    """

    text: str
    numbers: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


def clean(name: str) -> str:
    """A class name as it is put into a text: no parentheses, no underscores; a blank may be left at its end."""
    return re.sub(r"\([^)]*\)", "", name).replace("_", " ").replace("  ", " ")


def prompt(names: Sequence[ClassName], numbers: Sequence[int]) -> Prompt:
    """Some classes in one text, without a dot at its end."""
    spans, begin = [], 0
    for one in (names[number] for number in numbers):
        spans.append((begin + len(one.prefix), begin + len(one.prefix) + len(one.cleaned)))
        begin += len(one.text) + len(SEPARATOR)
    return Prompt(SEPARATOR.join(names[number].text for number in numbers), tuple(numbers), tuple(spans))


def prompts_of_all(names: Sequence[ClassName], tokenizer: Tokenizer) -> list[Prompt]:
    """All classes in their order: in one text if its tokens fit, else in texts of 40 names."""
    everything = prompt(names, range(len(names)))
    if tokenizer.count(everything.text) + SPECIAL_TOKENS <= tokenizer.length:
        return [everything]
    return [prompt(names, range(at, min(at + CHUNK, len(names)))) for at in range(0, len(names), CHUNK)]


def prompt_with_some(
    names: Sequence[ClassName], positive: Sequence[int], tokenizer: Tokenizer, draw: np.random.Generator
) -> Prompt:
    """All classes in their order; of several texts one at random of those that name a class in the picture.

    Args:
        positive: numbers of the classes in the picture; without any, one text of all at random.
    """
    every = prompts_of_all(names, tokenizer)
    chosen = [one for one in every if set(one.numbers) & set(positive)] or every
    return chosen[int(draw.integers(len(chosen)))]


def sampled_prompt(
    names: Sequence[ClassName], positive: Sequence[int], negatives: int, tokenizer: Tokenizer, draw: np.random.Generator
) -> Prompt:
    """Classes that are in the picture and some that are not, in random order.

    Half of the time `negatives` classes are drawn, else 1 to that many; those in the picture are then taken out.  All
    tokens of the text have a place: classes of the picture come first, those that no longer fit are left out.

    Args:
        names: all classes.
        positive: numbers of those in the picture, each once.
    """
    most = min(negatives, len(names))
    wanted = most if draw.random() < 0.5 or not most else int(draw.integers(1, most + 1))
    others = [number for number in draw.permutation(len(names))[:wanted].tolist() if number not in set(positive)]
    room = tokenizer.length - SPECIAL_TOKENS
    chosen: list[int] = []
    for group in (draw.permutation(np.array(positive, np.int64)).tolist(), others):
        for number in group:
            room -= tokenizer.count(names[number].text + SEPARATOR)
            if room < 0:
                return prompt(names, draw.permutation(np.array(chosen, np.int64)).tolist())
            chosen.append(number)
    return prompt(names, draw.permutation(np.array(chosen, np.int64)).tolist())


def swap_sides(
    text: str, spans: Sequence[Sequence[tuple[int, int]]]
) -> tuple[str, tuple[tuple[tuple[int, int], ...], ...]]:
    """A caption with the words left and right swapped, and its spans moved along."""
    pieces: list[str] = []
    moved: list[tuple[int, int]] = []  # where a swapped word ended before, and by how much what follows has moved
    last, shift = 0, 0
    for match in re.finditer(r"\b(left|right)\b", text, re.IGNORECASE):
        word = match[0]
        other = _SIDES[word.lower()]
        other = other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other
        pieces += [text[last : match.start()], other]
        last, shift = match.end(), shift + len(other) - len(word)
        moved.append((match.end(), shift))
    pieces.append(text[last:])

    def place(character: int) -> int:
        return character + next((by for end, by in reversed(moved) if end <= character), 0)

    return "".join(pieces), tuple(tuple((place(begin), place(end)) for begin, end in several) for several in spans)
