"""Texts to WordPiece tokens, and spans of characters to the tokens that they cover (card glip, Data: Positive map)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lumiray.errors import UserError

Spans = Sequence[tuple[int, int]]
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
NEIGHBOURS = 3  # characters that are tried where a span begins or ends on a blank
EPS = 1e-6


@dataclass(frozen=True)
class Tokens:
    """One text in tokens.

    Args:
        ids: int32 `(T,)`, padded.
        mask: bool `(T,)`, true for tokens that are no padding.
        encoding: what knows which token a character became.
    """

    ids: np.ndarray
    mask: np.ndarray
    encoding: Any

    def token_of(self, characters: Sequence[int]) -> int | None:
        """The token of the first of these characters that is part of one."""
        for character in characters:
            token = self.encoding.char_to_token(character) if character >= 0 else None
            if token is not None:
                return int(token)
        return None


class Tokenizer:
    """BERT's normalisation and WordPiece over a vocabulary, lower-cased, with [CLS] and [SEP].

    Args:
        vocabulary: tokens in the order of their ids.
        length: T, to which texts are padded and cut.

    Raises:
        UserError: the vocabulary lacks one of the special tokens.
    """

    def __init__(self, vocabulary: Sequence[str], length: int) -> None:
        from tokenizers import Tokenizer as Fast
        from tokenizers import models, normalizers, pre_tokenizers, processors

        ids = {word: number for number, word in enumerate(vocabulary)}
        missing = [word for word in SPECIAL if word not in ids]
        if missing:
            raise UserError(f"--vocabulary has no token {missing[0]}; give the vocab.txt of bert-base-uncased.")
        self.size, self.length = len(vocabulary), length
        fast = Fast(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
        fast.normalizer = normalizers.BertNormalizer(lowercase=True)
        fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        fast.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
        self._whole = Fast.from_str(fast.to_str())
        fast.enable_truncation(length)
        fast.enable_padding(length=length, pad_id=ids["[PAD]"], pad_token="[PAD]")
        self._fast = fast
        self.count = lru_cache(1 << 16)(self._count)  # names of classes are asked for in every row

    @classmethod
    def from_file(cls, path: str, length: int) -> Tokenizer:
        """The tokenizer of a file with one token a line.

        Raises:
            UserError: the file cannot be read, or lacks special tokens.
        """
        try:
            lines = Path(path).read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--vocabulary {path}: cannot be read ({type(error).__name__}).") from None
        return cls([line.rstrip("\r") for line in lines[: len(lines) - (not lines[-1])]], length)

    def __call__(self, text: str) -> Tokens:
        """Tokens of a text, cut and padded to the length."""
        encoding = self._fast.encode(text)
        return Tokens(np.array(encoding.ids, np.int32), np.array(encoding.attention_mask, bool), encoding)

    def _count(self, text: str) -> int:
        """How many tokens a text is, without [CLS] and [SEP]."""
        return len(self._whole.encode(text, add_special_tokens=False).ids)


def positive_map(tokens: Tokens, spans: Sequence[Spans]) -> np.ndarray:
    """Which tokens the spans of each box cover, rows of sum 1 or of zeros, fp32 `(N, T)`.

    A span that begins or ends on a blank is moved inwards by up to two characters; one that finds no token then, or
    lies behind the cut, is left out.

    Args:
        spans: for each of N boxes its [begin, end) in characters of the text.
    """
    found = np.zeros((len(spans), len(tokens.ids)), np.float32)
    for row, several in zip(found, spans, strict=True):
        for begin, end in several:
            first = tokens.token_of(range(begin, begin + NEIGHBOURS))
            last = tokens.token_of(range(end - 1, end - 1 - NEIGHBOURS, -1))
            if first is not None and last is not None:
                row[first : last + 1] = 1
    return found / (found.sum(1, keepdims=True) + np.float32(EPS))


def binary_map(tokens: Tokens, spans: Sequence[Spans]) -> np.ndarray:
    """The same as the losses take it: bool `(N, T)`."""
    return positive_map(tokens, spans) != 0
