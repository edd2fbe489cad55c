"""A shard of captions labelled: noun phrases, boxes that a trained system finds for them, a shard of grounding rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lumiray.data.index import ShardSet
from lumiray.data.parts import caption_in
from lumiray.data.records import image_of
from lumiray.data.shard_file import ShardFile, Written, staged
from lumiray.data.unfinished import leave_record
from lumiray.evaluate.label_options import LabelCommand
from lumiray.evaluate.noun_phrases import NounPhrases, Span
from lumiray.evaluate.picture_folder import Place, Report
from lumiray.evaluate.run_weights import ready_system
from lumiray.storage import base_name, join
from lumiray.system import BadRow, Found, Row

READ_ROWS = 64  # that are in memory at a time
COUNTED = ("rows", "boxes", "without_phrase", "without_box", "unusable", "unread")
"""`rows` of the source, `boxes` kept, rows that were left out and why, and phrases behind what the teacher reads."""


class Teacher:
    """Reads, labels and writes shards; one instance per process.

    Args:
        shards: image-text rows.
        output: folder of the set that is being written.
        digests: of each shard, by its number.

    Raises:
        UserError: weights or a spaCy pipeline that are missing or do not fit.
    """

    def __init__(self, command: LabelCommand, shards: ShardSet, output: str, digests: Sequence[str]) -> None:
        import torch

        self._phrases = NounPhrases(command.options.phrases_model)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._system = ready_system(command.slug, command.config, device)
        self._shards, self._output, self._digests = shards, output, digests
        self._threshold = command.options.threshold

    def __call__(self, places: Sequence[Place]) -> Iterator[Report]:
        """Label shards, each given as its number and the name of the new one."""
        for number, name in places:
            yield self._labelled(int(number), name)

    def _labelled(self, number: int, name: str) -> Report:
        counts = Counter(dict.fromkeys(COUNTED, 0))
        first, last = self._shards.starts[number : number + 2].tolist()
        wrong = ""
        with staged(join(self._output, name)) as file:
            shard = ShardFile(file)
            for start in range(first, last, READ_ROWS):
                rows = self._shards.read(np.arange(start, min(start + READ_ROWS, last)))
                for row, parts in zip(rows, self._with_boxes(rows, counts), strict=True):
                    if isinstance(parts, BadRow):
                        counts["unusable"] += 1
                        wrong = wrong or f"; first unusable: {_key(row)}{parts}"
                    elif parts is not None and isinstance(row, Row):
                        shard.add(row.key, parts)
            written = replace(shard.close(name), counts=dict(counts))
        leave_record(self._output, written, self._digests[number])
        return Report(f"{base_name(self._shards.url_of(number))} -> {told(written)}{wrong}")

    def _with_boxes(
        self, rows: Sequence[Row | BadRow], counts: Counter[str]
    ) -> Iterator[dict[str, bytes] | BadRow | None]:
        """Parts of each row, None for one that is left out, or what is wrong with it; in their order."""
        captions = [_caption(row) for row in rows]
        phrases = self._phrases([one if isinstance(one, str) else "" for one in captions])
        for row, caption, spans in zip(rows, captions, phrases, strict=True):
            counts["rows"] += 1
            if isinstance(row, BadRow) or isinstance(caption, BadRow):
                yield row if isinstance(row, BadRow) else BadRow(str(caption))
                continue
            try:
                yield self._grounded(row, caption, spans, counts)
            except BadRow as error:
                yield error

    def _grounded(self, row: Row, caption: str, spans: Sequence[Span], counts: Counter[str]) -> dict[str, bytes] | None:
        if not spans:
            counts["without_phrase"] += 1
            return None
        readable = self._system.readable(caption, spans)
        counts["unread"] += readable.count(False)
        spans = [span for span, own in zip(spans, readable, strict=True) if own]
        stored = image_of(row)
        pixels = stored.decoded()
        found = self._system.ground(pixels, caption, spans, self._threshold) if spans else None
        if found is None or not found.phrases:
            counts["without_box"] += 1
            return None
        counts["boxes"] += len(found.phrases)
        given = grounding_json(caption, spans, found, (pixels.shape[0], pixels.shape[1]))
        return {stored.part: stored.data, "json": json.dumps(given, ensure_ascii=False).encode()}


def grounding_json(caption: str, spans: Sequence[Span], found: Found, size: tuple[int, int]) -> dict[str, Any]:
    """The `.json` of a grounding row (`lumiray.data.records.grounding_of`), with the `scores` of its boxes.

    Args:
        size: height and width of the picture.
    """
    corners = found.boxes.double().cpu().numpy() + np.array([0, 0, 1, 1])  # inclusive corners to edges
    edges = corners.clip(0, [size[1], size[0], size[1], size[0]]).round(2)
    return {
        "caption": caption,
        "boxes": edges.tolist(),
        "spans": [[list(spans[label - 1])] for label in found.labels.tolist()],
        "scores": [round(score, 4) for score in found.scores.tolist()],
    }


def told(written: Written) -> str:
    """What became of a shard's rows."""
    counts = written.counts
    text = f"{written.shard.name}: {written.shard.rows} of {counts['rows']} rows with {counts['boxes']} boxes"
    return f"{text}{left_out(counts)}"


def left_out(counts: Mapping[str, int]) -> str:
    """How many rows were left out and why, as the end of a sentence; empty if there were none."""
    words = {"without_phrase": "without a noun phrase", "without_box": "without a box", "unusable": "unusable"}
    rows = ", ".join(f"{counts[name]} {text}" for name, text in words.items() if counts[name])
    behind = f"; {counts['unread']} phrases lie behind what the teacher reads of a caption" if counts["unread"] else ""
    return (f"; left out: {rows}" if rows else "") + behind


def _caption(row: Row | BadRow) -> str | BadRow:
    if isinstance(row, BadRow):
        return row
    try:
        caption = caption_in(row.parts)
    except BadRow as error:
        return error
    return caption if caption and caption.strip() else BadRow("there is no caption")


def _key(row: Row | BadRow) -> str:
    return f"row {row.key!r}: " if isinstance(row, Row) else ""
