"""From a row's text to token ids: which text is taken, and open_clip's tokenizer with bounded work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from lumiray.data.records import texts_of
from lumiray.errors import UserError
from lumiray.system import Row
from lumizoo.blocks.open_clip_library import tokenizers

MAX_WORD = 2000  # characters of one word that are looked at; a longer one is data gone wrong, not language


@dataclass(frozen=True)
class CaptionSource:
    """One place where a caption may be, and how often it is taken."""

    part: str  # txt | json
    field: str | None
    share: float


@cache
def caption_sources(text: str) -> tuple[CaptionSource, ...]:
    """Parse `txt`, `json:FIELD` or `txt=0.3,json:FIELD=0.7`.

    Raises:
        UserError: not of that form, or shares that do not add up to 1.
    """
    found = []
    for piece in text.split(","):
        place, _, share = piece.strip().partition("=")
        part, _, name = place.partition(":")
        if part not in ("txt", "json") or (part == "json") != bool(name):
            raise UserError(f"--caption {text!r}: {piece!r} is neither txt nor json:FIELD.")
        try:
            odds = float(share) if share else 1.0
        except ValueError:
            odds = -1.0
        if not 0 <= odds <= 1:
            raise UserError(f"--caption {text!r}: {share!r} is not a probability.")
        found.append(CaptionSource(part, name or None, odds))
    if abs(sum(source.share for source in found) - 1) > 1e-6:
        raise UserError(f"--caption {text!r}: the probabilities add up to {sum(s.share for s in found):g}, not 1.")
    return tuple(found)


def choose_caption(row: Row, sources: Sequence[CaptionSource], draw: np.random.Generator) -> str:
    """A row's caption in training: the source drawn by the shares, one of a list at equal odds.

    Raises:
        BadRow: no text where the source says, or an empty one.
    """
    source = sources[0]
    if len(sources) > 1:
        source = sources[int(draw.choice(len(sources), p=[one.share for one in sources]))]
    captions = texts_of(row, source.field)
    return captions[int(draw.integers(len(captions)))] if len(captions) > 1 else captions[0]


class Tokenizer:
    """open_clip's tokenizer for a model, stopping as soon as the context is full.

    open_clip encodes a whole caption and then cuts it; ids behind the cut never matter, so the words that
    would produce them are not encoded.
    """

    def __init__(self, context_length: int, hf_name: str | None = None, options: dict[str, Any] | None = None) -> None:
        tokenizer = tokenizers()
        self.context_length = context_length
        self._own: Any = None
        if hf_name is None:
            self._own = tokenizer.SimpleTokenizer(context_length=context_length, **(options or {}))
        else:
            self._other = tokenizer.HFTokenizer(hf_name, context_length=context_length, **(options or {}))

    def __call__(self, text: str) -> np.ndarray:
        """Token ids of one caption: int32 `(context_length,)`, padded with 0."""
        if self._own is None or self._own.reduction_fn is not None:
            encode = self._own or self._other
            return encode([text])[0].numpy().astype(np.int32)
        ids = np.zeros(self.context_length, dtype=np.int32)
        ids[0] = self._own.sot_token_id
        end = 1
        for token in self._tokens(text):
            if end == self.context_length - 1:
                break
            ids[end] = token
            end += 1
        ids[end] = self._own.eot_token_id
        return ids

    def _tokens(self, text: str) -> Iterator[int]:
        own = self._own
        for word in own.pat.finditer(own.clean_fn(text)):
            characters = "".join(own.byte_encoder[one] for one in word.group()[:MAX_WORD].encode("utf-8"))
            for piece in own.bpe(characters).split(" "):
                yield own.encoder[piece]
        if len(own.cache) > 200_000:  # captions from the web bring ever new words
            own.cache = {token: token for token in list(own.cache)[:2]}
