"""One row of a shard to arrays: picture, text, boxes and the tokens that name them (card glip, Training, Data)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lumiray.data.records import Detection, Grounding, boxes_of
from lumiray.errors import UserError
from lumiray.system import BadRow, Row
from lumizoo.glip.class_prompts import class_prompts_in
from lumizoo.glip.config import GlipConfig
from lumizoo.glip.packing import captions_in, packed
from lumizoo.glip.prompts import ClassName, Prompt, prompt_with_some, prompts_of_all, sampled_prompt, swap_sides
from lumizoo.glip.resize import mirror_boxes, resize, resized_shape, scale_boxes
from lumizoo.glip.tokens import Spans, Tokenizer, binary_map


@dataclass(frozen=True)
class Captioned:
    """A text, boxes with inclusive corners `(N, 4)`, and the spans that name each of them."""

    text: str
    boxes: np.ndarray
    spans: tuple[Spans, ...]


class Prepare:
    """Rows to arrays; the tokenizer is made once.

    A row has a caption with spans, or names of classes with labels: see `lumiray.data.records.boxes_of`.  Captions that
    GLIP-L packs with a row's own are drawn from a file and not, as published, from other rows: so a row's arrays follow
    from the row and the draw alone.
    """

    def __init__(self, config: GlipConfig) -> None:
        self.config = config

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the settings.

        Raises:
            UserError: no vocabulary is given, it cannot be read, or is larger than the text encoder's table.
        """
        config = self.config
        if config.vocabulary is None:
            raise UserError(
                "--vocabulary is missing: texts are cut into tokens of BERT. Give the path of the vocab.txt of "
                "bert-base-uncased."
            )
        found = Tokenizer.from_file(config.vocabulary, config.max_tokens)
        if found.size > config.vocabulary_size:
            raise UserError(
                f"--vocabulary {config.vocabulary} has {found.size} tokens, and the text encoder has a table of "
                f"{config.vocabulary_size}: give --vocabulary-size {found.size}, or the vocabulary of its weights."
            )
        return found

    @cached_property
    def other_captions(self) -> list[str]:
        """The captions that are packed with those of rows; none if no file is given."""
        path = self.config.other_captions
        return captions_in(path) if path else []

    @cached_property
    def class_prompts(self) -> dict[str, ClassName]:
        """How texts speak of the classes that the settings' file names."""
        path = self.config.class_prompts
        return class_prompts_in(path) if path else {}

    def named(self, classes: Sequence[str]) -> list[ClassName]:
        """How texts speak of classes; of those that no file names, by their names alone."""
        return [self.class_prompts.get(name, ClassName(name)) for name in classes]

    def __call__(self, row: Row, draw: np.random.Generator | None, in_order: bool = False) -> dict[str, Any]:
        """Arrays of a training row (`training`), or, without a generator, of an evaluation row (`evaluation`).

        Args:
            in_order: all classes are named in their own order, as in evaluation; else some of them, shuffled.

        Raises:
            BadRow: the row cannot be used.
        """
        given = boxes_of(row)
        return self.evaluation(given) if draw is None else self.training(given, draw, in_order)

    def training(
        self, given: Grounding | Detection, draw: np.random.Generator, in_order: bool = False
    ) -> dict[str, Any]:
        """A row at one of the short sides, mirrored or not, at random.

        Returns:
            `picture` uint8 RGB `(3, H, W)`; `size` int32 (H, W); `boxes` fp32 `(N, 4)`, inclusive corners in its
            pixels; `count` N; `words` bool `(N, T)`, tokens of each box; `tokens` int32 and `mask` bool `(1, T)`.  A
            picture of which is told that it has none of its classes has N = 0, and one row of padding: it teaches what
            is not there.  The published code has such pictures, too, and leaves a batch out if they are over a tenth.

        Raises:
            BadRow: the picture cannot be decoded, or nothing is left to learn from: a caption without a box, boxes
                that are all empty, or none with a token.  The published code takes another row then, too.
        """
        config = self.config
        found = self._captioned(given, draw, in_order)
        mirrored = draw.random() < 0.5
        if mirrored and config.flip_words and isinstance(given, Grounding):
            text, spans = swap_sides(found.text, found.spans)
            found = Captioned(text, found.boxes, spans)
        if isinstance(given, Grounding) and self.other_captions:
            text, moved = packed(found.text, found.spans, self.other_captions, self.tokenizer, draw)
            found = Captioned(text, found.boxes, moved)
        tokens = self.tokenizer(found.text)
        words = binary_map(tokens, found.spans)
        boxless = isinstance(given, Detection) and not len(given.boxes)
        if not (boxless or words.any()):
            reason = "no box is left to learn from" if not len(words) else "no box has a token in the text"
            raise BadRow(f"{reason} (a text has {config.max_tokens} tokens, a box more than one pixel)")
        picture = given.picture.decoded()
        before = picture.shape[0], picture.shape[1]
        after = resized_shape(before, int(draw.choice(config.train_sides)), config.long_side)
        boxes = scale_boxes(found.boxes, before, after)
        picture = resize(picture, *after)
        if mirrored:
            picture, boxes = picture[:, ::-1], mirror_boxes(boxes, after[1])
        return {
            "picture": np.ascontiguousarray(picture.transpose(2, 0, 1)),
            "size": np.array(after, np.int32),
            "boxes": (np.zeros((1, 4)) if boxless else boxes).astype(np.float32),
            "count": np.int32(len(boxes)),
            "words": np.zeros((1, len(tokens.mask)), bool) if boxless else words,
            "tokens": tokens.ids[None],
            "mask": tokens.mask[None],
        }

    def _captioned(self, given: Grounding | Detection, draw: np.random.Generator, in_order: bool) -> Captioned:
        boxes = inclusive(given.boxes)
        kept = not_empty(boxes)
        if isinstance(given, Grounding):
            spans = tuple(own for own, keep in zip(given.spans, kept, strict=True) if keep)
            return Captioned(given.caption, boxes[kept], spans)
        names = self._names(given.classes)
        labels = np.array(given.labels, np.int64)[kept]
        positive = sorted(set(labels.tolist()))
        if in_order:
            found = prompt_with_some(names, positive, self.tokenizer, draw)
        else:
            found = sampled_prompt(names, positive, self.config.negatives, self.tokenizer, draw)
        spans_of = dict(zip(found.numbers, found.spans, strict=True))
        named = np.array([label in spans_of for label in labels.tolist()], bool)
        return Captioned(found.text, boxes[kept][named], tuple((spans_of[one],) for one in labels[named].tolist()))

    def _names(self, classes: Sequence[str]) -> list[ClassName]:
        found = self.named(classes)
        empty = self.nameless(found)
        if empty is not None:
            raise BadRow(f"the class {empty!r} becomes no token, so that no text can name it")
        return found

    def nameless(self, names: Sequence[ClassName]) -> str | None:
        """The first class name of which no token is left, if there is one."""
        return next((one.name for one in names if not self.tokenizer.count(one.cleaned)), None)

    def evaluation(self, given: Grounding | Detection) -> dict[str, Any]:
        """A row at the size of use, with all classes of its set, or all phrases of its caption.

        Returns:
            `picture`, `size` as in training; `original` int32 (H, W) before it was resized; `boxes` fp32 `(N, 4)`,
            inclusive corners in the original, with `labels` int32 `(N,)` from 1 on and `count` N; `tokens` int32 and
            `mask` bool `(K, T)` of K texts; `class_words` bool `(C, T)`, tokens of each class, and `class_text` int32
            `(C,)`, its text from 1 on; `judged` as `judged_classes` gives it.

        Raises:
            BadRow: the picture cannot be decoded, or a class has no token.
        """
        boxes = inclusive(given.boxes)
        kept = not_empty(boxes)
        if isinstance(given, Detection):
            labels = np.array(given.labels, np.int32)
            texts = self.texts(prompts_of_all(self._names(given.classes), self.tokenizer))
        else:
            phrases = list(dict.fromkeys(given.spans))
            labels = np.array([phrases.index(own) for own in given.spans], np.int32)
            texts = self.phrases(given.caption, phrases)
        judged = judged_classes(given, len(texts["class_text"]))
        picture = given.picture.decoded()
        before = picture.shape[0], picture.shape[1]
        after = resized_shape(before, self.config.short_side, self.config.long_side)
        return texts | {
            "picture": np.ascontiguousarray(resize(picture, *after).transpose(2, 0, 1)),
            "size": np.array(after, np.int32),
            "original": np.array(before, np.int32),
            "boxes": boxes[kept].astype(np.float32),
            "labels": labels[kept] + 1,
            "count": np.int32(kept.sum()),
            "judged": judged,
        }

    def texts(self, prompts: Sequence[Prompt]) -> dict[str, np.ndarray]:
        """`tokens`, `mask`, `class_words` and `class_text`, as in `evaluation`, of classes in their order."""
        tokens = [self.tokenizer(one.text) for one in prompts]
        words = [binary_map(own, [(s,) for s in one.spans]) for own, one in zip(tokens, prompts, strict=True)]
        text = [np.full(len(own), number + 1, np.int32) for number, own in enumerate(words)]
        return {
            "tokens": np.stack([one.ids for one in tokens]),
            "mask": np.stack([one.mask for one in tokens]),
            "class_words": np.concatenate(words),
            "class_text": np.concatenate(text),
        }

    def phrases(self, caption: str, spans: Sequence[Spans]) -> dict[str, np.ndarray]:
        """The same of a caption and its phrases, each of one or more spans."""
        tokens = self.tokenizer(caption)
        return {
            "tokens": tokens.ids[None],
            "mask": tokens.mask[None],
            "class_words": binary_map(tokens, spans),
            "class_text": np.ones(len(spans), np.int32),
        }


def judged_classes(given: Grounding | Detection, classes: int) -> np.ndarray:
    """What a row says of each class, int32 `(C,)`: 0 not looked for, 1 every object has a box, 2 some may have none."""
    judged = np.ones(classes, np.int32)
    if isinstance(given, Detection):
        if given.absent is not None:
            judged[:] = 0
            judged[[*given.absent, *given.labels]] = 1
        judged[list(given.not_exhaustive)] = 2
    return judged


def inclusive(boxes: np.ndarray) -> np.ndarray:
    """Edges left, top, right, bottom `(N, 4)` as inclusive corners: a box of width w has x2 = x1 + w - 1."""
    return boxes - np.array([0.0, 0.0, 1.0, 1.0])


def not_empty(boxes: np.ndarray) -> np.ndarray:
    """Which boxes with inclusive corners have more than one pixel to both sides, bool `(N,)`."""
    return np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
