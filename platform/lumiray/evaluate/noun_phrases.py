"""Noun phrases of captions, as spans of their characters, by a spaCy pipeline that the user names.

A phrase is an optional determiner, adjectives and one or more nouns that follow each other in the lower-cased caption
(card glip, Two-stage self-training); words with hyphens are one word, as its tokeniser has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from lumiray.errors import UserError

Span = tuple[int, int]
MOST_LETTERS = 10_000  # of a caption that are looked at; a network reads a few hundred words
_KINDS = {"DET": "d", "ADJ": "a", "NOUN": "n", "PROPN": "n"}  # universal parts of speech
_PHRASE = re.compile("d?a*n+")
_NOT_NEEDED = ("parser", "ner", "entity_linker", "lemmatizer", "senter", "textcat", "textcat_multilabel")
_TRIED = "a red apple lies on the old table"
MEND = "python -m spacy download en_core_web_sm"


class NounPhrases:
    """Finds them.

    Args:
        model: name of an installed spaCy pipeline, or its folder.

    Raises:
        UserError: spaCy or the pipeline is not there, or it tags no parts of speech.
    """

    def __init__(self, model: str) -> None:
        try:
            import spacy
        except ImportError:
            raise UserError(
                "Noun phrases are found by spaCy, which is not installed: pip install 'lumiray[phrases]'."
            ) from None
        try:
            self._pipeline = spacy.load(model, exclude=_NOT_NEEDED)
        except (OSError, ValueError, ImportError) as error:  # absent; of another version of spaCy; of parts not here
            words = " ".join(str(error).split())[:200]
            raise UserError(
                f"--phrases-model {model}: spaCy cannot load it ({words}). Give the name of an installed pipeline or "
                f"its folder; a small English one: {MEND}."
            ) from None
        if not any(token.pos_ for token in self._pipeline(_TRIED)):
            raise UserError(f"--phrases-model {model}: it tags no parts of speech; a small English one: {MEND}.")
        meta = self._pipeline.meta
        self.version = f"{meta.get('lang')}_{meta.get('name')} {meta.get('version')}, spaCy {spacy.__version__}"

    def __call__(self, captions: Sequence[str]) -> list[list[Span]]:
        """For each caption the [begin, end) of its phrases in characters, in their order; each occurrence counts."""
        texts = [_lowered(caption[:MOST_LETTERS]) for caption in captions]
        return [_phrases(document) for document in self._pipeline.pipe(texts)]


def _lowered(text: str) -> str:
    """In small letters, each where it was: one that becomes two letters stays."""
    return "".join(small if len(small := letter.lower()) == 1 else letter for letter in text)


def _phrases(document: Any) -> list[Span]:
    words = list(_words(document))
    kinds = "".join(kind for _, _, kind in words)
    found = [(words[one.start()][0], words[one.end() - 1][1]) for one in _PHRASE.finditer(kinds)]
    return [(begin, end) for begin, end in (_trimmed(document.text, *span) for span in found) if begin < end]


def _words(document: Any) -> Iterator[tuple[int, int, str]]:
    """Begin, end and kind of each word; what hyphens tie together is one, a noun if its last part is one."""
    parts: list[Any] = []
    tokens = [token for token in document if not token.is_space]
    for token, follower in zip(tokens, (*tokens, None)[1:], strict=True):
        parts.append(token)
        end = token.idx + len(token.text)
        if follower is None or follower.idx != end or "-" not in (token.text, follower.text):
            kind = _KINDS.get(token.pos_, "x" if len(parts) == 1 else "a")
            yield parts[0].idx, end, kind
            parts = []


def _trimmed(text: str, begin: int, end: int) -> Span:
    """A span without the punctuation at its ends."""
    while begin < end and not text[begin].isalnum():
        begin += 1
    while begin < end and not text[end - 1].isalnum():
        end -= 1
    return begin, end
