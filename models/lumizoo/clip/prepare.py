"""One row of a shard to CLIP's arrays; runs in many decoding processes."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import numpy as np

from lumiray.data.decode import decode
from lumiray.data.picture import (
    color_jitter,
    grey,
    random_resized_crop,
    reduced_random_resized_crop,
    resize_for_evaluation,
)
from lumiray.data.records import image_of, texts_of
from lumiray.system import BadRow, Row
from lumizoo.clip.captions import Tokenizer, caption_sources, choose_caption
from lumizoo.clip.config import ClipConfig
from lumizoo.clip.form import Form, form_of

NO_CLASS = -1


class Prepare:
    """Picture and caption of a row, augmented in training as open_clip does, or as published in evaluation."""

    def __init__(self, config: ClipConfig) -> None:
        self.config = config
        self.sources = caption_sources(config.caption)

    @cached_property
    def form(self) -> Form:
        """Sizes and conventions of the model."""
        return form_of(self.config)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Made at the first row of a process, kept for the others."""
        form = self.form
        return Tokenizer(form.context_length, form.hf_tokenizer, dict(form.tokenizer_options))

    def __call__(self, row: Row, draw: np.random.Generator | None) -> dict[str, Any]:
        """One row as arrays, for training if there is a generator, else for evaluation.

        Training: `image` uint8 (3, S, S), `text` int32 (context,), `identity` and `caption_id` int64 for masking.
        Evaluation: `image`, `text` int32 (captions, context), `label` int64 of `.cls` or -1.  A row with a class
        and no caption has no captions.

        Raises:
            BadRow: no picture or caption, or one that cannot be used.
        """
        if draw is None:
            return self.for_evaluation(row)
        caption = choose_caption(row, self.sources, draw)
        return {
            "image": self.augmented(row, self.form.size, draw),
            "text": self.tokenizer(caption),
            "identity": np.int64(row.identity),
            "caption_id": np.int64(_hash(caption)),
        }

    def for_evaluation(self, row: Row) -> dict[str, Any]:
        """The whole picture, all captions, the class."""
        label = _label(row.parts["cls"]) if "cls" in row.parts else NO_CLASS
        source = self.sources[0]
        captions = [] if label != NO_CLASS and source.part not in row.parts else texts_of(row, source.field)
        square = resize_for_evaluation(image_of(row).decoded(), self.form.size, self.form.resize)
        tokens = [self.tokenizer(caption) for caption in captions]
        return {
            "image": np.ascontiguousarray(square.transpose(2, 0, 1)),
            "text": np.array(tokens, dtype=np.int32).reshape(-1, self.form.context_length),
            "label": np.int64(label),
        }

    def augmented(self, row: Row, size: int, draw: np.random.Generator) -> np.ndarray:
        """Random resized crop, uint8 (3, S, S); colour changes and grey where they are asked for."""
        config = self.config

        def cropped(data: bytes) -> np.ndarray:
            if config.reduced_decoding:
                return reduced_random_resized_crop(data, size, config.crop_scale, config.crop_ratio, draw)
            return random_resized_crop(decode(data), size, config.crop_scale, config.crop_ratio, draw)

        square = image_of(row).decoded(cropped)
        if any(config.color_jitter) and draw.random() < config.color_jitter_prob:
            square = color_jitter(square, *config.color_jitter, draw)
        if config.grey_prob and draw.random() < config.grey_prob:
            square = grey(square)
        return np.ascontiguousarray(square.transpose(2, 0, 1))


def _hash(caption: str) -> int:
    """A number for a caption, equal for captions that differ only in case and white space."""
    text = " ".join(caption.lower().split()).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def _label(text: bytes) -> int:
    try:
        label = int(text)
    except ValueError:
        raise BadRow(f"the class in .cls is {text[:20]!r}, not a number") from None
    if label < 0:
        raise BadRow(f"the class in .cls is {label}; classes count from 0")
    return label
