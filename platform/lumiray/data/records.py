"""What the parts of a stored row are, by record type (`lumiray.system.Record`): where a system's `prepare` begins.

    image_of(row)            CLEAN, and with texts_of(row) IMAGE_TEXT
    pair_of(row)             PAIR
    exposures_of(row)        EXPOSURES
    grounding_of(row)        GROUNDING
    boxes_of(row)            GROUNDING, with a caption or with names of classes, boxes cut to the picture
    segmentation_of(row)     SEGMENTATION

UNPAIRED is a mixture of two sources of CLEAN rows (`--mix`): each has its own order and epochs, and
`batch["source"]` tells them apart.

Pictures are handed over as stored, for a system knows how it decodes them.  Whatever is missing, there twice or
wrong is a `BadRow` that says what was looked for and what there was: between two pictures nobody chooses by guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from lumiray.data.class_numbers import decode_class_numbers, unlabelled
from lumiray.data.decode import decode, picture_size
from lumiray.data.parts import PAIR, PICTURES, caption_in
from lumiray.data.row_texts import (
    caption_of,
    check_annotations,
    check_numbers,
    checked_names,
    checked_spans,
    json_of,
    parts_there,
    shortened,
    text_of,
)
from lumiray.system import BadRow, Record, Row

_Read = TypeVar("_Read")
_EXPOSURE = re.compile(r"([0-9]{1,4})\.([a-z0-9]+)")


@dataclass(frozen=True)
class StoredPicture:
    """A picture of a row, as bytes.

    Args:
        part: its name in the row, such as `jpg` or `lq.png`.
        data: the file.
    """

    part: str
    data: bytes

    def decoded(self, decoder: Callable[[bytes], np.ndarray] = decode) -> np.ndarray:
        """Its pixels as `decoder` gives them, `decode`: uint8 RGB (H, W, 3).

        Raises:
            BadRow: it cannot be decoded; the message names the part.
        """
        return self._read(decoder)

    def size(self) -> tuple[int, int]:
        """Height and width as `decode` will give them, from the header.

        Raises:
            BadRow: it is no picture; the message names the part.
        """
        return self._read(picture_size)

    def _read(self, reader: Callable[[bytes], _Read]) -> _Read:
        try:
            return reader(self.data)
        except ValueError as error:
            raise BadRow(f"{self.part}: {error}") from None


def image_of(row: Row) -> StoredPicture:
    """The picture of a row, `.jpg`, `.png`, `.webp` or another of `parts.PICTURES`; of several the first in this order.

    Raises:
        BadRow: there is none.
    """
    found = next((kind for kind in PICTURES if kind in row.parts), None)  # as open_clip takes one
    if found is None:
        raise BadRow(f"the row has no picture ({parts_there(row)})")
    return StoredPicture(found, row.parts[found])


def texts_of(row: Row, field: str | None = None) -> list[str]:
    """Texts of a row: its `.txt`, or a field of its `.json`, which is a text or a list of them.

    Raises:
        BadRow: there is none where it should be, it is not text, or empty.
    """
    texts = [text_of(row, "txt", "a caption")] if field is None else _json_texts(row, field)
    if not texts or not all(text.strip() for text in texts):
        raise BadRow("the caption is empty")
    return texts


def pair_of(row: Row) -> dict[str, StoredPicture]:
    """The pictures `lq.*` and `gt.*` of a row, by these names.

    Raises:
        BadRow: one is missing, or there twice.
    """
    return {half: _picture(row, half) for half in PAIR}


def exposures_of(row: Row) -> tuple[StoredPicture, ...]:
    """The pictures `0.*`, `1.*`, ... of a row in the order of these numbers, two or more.

    Raises:
        BadRow: fewer than two, a number that is left out, or one that comes twice.
    """
    found: dict[int, str] = {}
    for part in sorted(row.parts):
        match = _EXPOSURE.fullmatch(part)
        if not match or match[2] not in PICTURES:
            continue
        number = int(match[1])
        if number in found:
            raise BadRow(f"the row has two exposures {number}: {found[number]} and {part}")
        found[number] = part
    if len(found) < 2 or max(found) >= len(found):
        raise BadRow(f"the row has no exposures 0.*, 1.* and so on, two or more without a hole ({parts_there(row)})")
    return tuple(StoredPicture(found[number], row.parts[found[number]]) for number in sorted(found))


@dataclass(frozen=True)
class Grounding:
    """A picture with a caption, and boxes around what words of the caption speak of.

    Args:
        boxes: float64 (n, 4), left, top, right, bottom in pixels of the picture as `decode` gives it: edges, so
            that a box over the whole of it is 0, 0, W, H.
        spans: for each box the [start, end) of one or more pieces of the caption, in characters.
    """

    picture: StoredPicture
    caption: str
    boxes: np.ndarray
    spans: tuple[tuple[tuple[int, int], ...], ...]


def grounding_of(row: Row) -> Grounding:
    """The picture of a row, and its `.json`:

        {"caption": "a cat on a mat", "boxes": [[12, 30.5, 200, 180]], "spans": [[[2, 5]]]}

    with one list of spans for each box, and no boxes at all where the caption speaks of nothing in the picture.
    Other fields are left alone.

    Raises:
        BadRow: something is missing, a box is not four finite numbers, empty or not inside the picture, or a span is
            empty or not inside the caption.
    """
    picture = image_of(row)
    given = json_of(row, "caption, boxes and spans")
    caption, boxes, spans = caption_of(given), given.get("boxes"), given.get("spans")
    if not isinstance(boxes, list) or not isinstance(spans, list) or len(boxes) != len(spans):
        raise BadRow(
            f"the .json needs boxes, and one list of spans for each: it has {shortened(boxes)}, {shortened(spans)}"
        )
    height, width = picture.size()
    for number, box in enumerate(boxes):
        _check_box(number, box, height, width)
    checked = tuple(checked_spans(number, several, len(caption)) for number, several in enumerate(spans))
    return Grounding(picture, caption, np.array(boxes, np.float64).reshape(-1, 4), checked)


@dataclass(frozen=True)
class Detection:
    """A picture with boxes around objects of classes.

    Args:
        classes: names of all classes that were looked for.
        boxes: as in `Grounding`.
        labels: for each box the place of its class in `classes`.
        absent: places of classes that were looked for and are not there; None where all classes were looked for.
        not_exhaustive: places of classes of which not every object has a box.
    """

    picture: StoredPicture
    classes: tuple[str, ...]
    boxes: np.ndarray
    labels: tuple[int, ...]
    absent: tuple[int, ...] | None = None
    not_exhaustive: tuple[int, ...] = ()


def boxes_of(row: Row) -> Grounding | Detection:
    """A row as `grounding_of` reads it, or one whose `.json` has names of classes in place of a caption:

        {"classes": ["cat", "dog"], "boxes": [[12, 30.5, 200, 180]], "labels": [0]}

    Where not all classes were looked for, as in LVIS, `"absent": [1]` names those that are not there, and
    `"not_exhaustive": [0]` those of which some objects may have no box.

    Boxes are cut to the picture; of those that were empty, or lay beside it, nothing is left, and they are dropped with
    their spans or labels.

    Raises:
        BadRow: something is missing, a box is not four finite numbers, a span is empty or not inside the caption, or a
            label has no class.
    """
    given = json_of(row, "caption, boxes and spans, or classes, boxes and labels")
    check_annotations(given)
    picture = image_of(row)
    height, width = picture.size()
    cut = np.array(given["boxes"], np.float64).reshape(-1, 4).clip(0, [width, height, width, height])
    kept = np.flatnonzero(np.all(cut[:, 2:] > cut[:, :2], axis=1)).tolist()
    if "classes" in given:
        labels = tuple(given["labels"][one] for one in kept)
        absent = tuple(given["absent"]) if "absent" in given else None
        not_exhaustive = tuple(given.get("not_exhaustive", ()))
        return Detection(picture, tuple(given["classes"]), cut[kept], labels, absent, not_exhaustive)
    spans = [tuple((start, end) for start, end in several) for several in given["spans"]]
    return Grounding(picture, given["caption"], cut[kept], tuple(spans[one] for one in kept))


@dataclass(frozen=True)
class Segmentation:
    """A picture with a class for each pixel.

    Args:
        numbers: uint8 or uint16 (H, W), places in `classes`; the largest number of the kind (255, 65535) where a
            pixel has no class.
        classes: their names.
    """

    picture: StoredPicture
    numbers: np.ndarray
    classes: tuple[str, ...]


def segmentation_of(row: Row) -> Segmentation:
    """The picture of a row, its `seg.png`, and names of classes from `.json` (`{"classes": [...]}`) or lines of `.txt`.

    Raises:
        BadRow: something is missing, the sizes differ, names are empty or come twice, or a number has no name.
    """
    picture = image_of(row)
    if "seg.png" not in row.parts:
        raise BadRow(f"the row has no seg.png ({parts_there(row)})")
    classes = _class_names(row)
    stored = StoredPicture("seg.png", row.parts["seg.png"])
    numbers = stored.decoded(decode_class_numbers)
    height, width = picture.size()
    if numbers.shape != (height, width):
        raise BadRow(
            f"{picture.part} has {width} x {height} pixels and seg.png {numbers.shape[1]} x {numbers.shape[0]}; "
            "they have one size"
        )
    labelled = numbers[numbers != unlabelled(numbers)]
    if labelled.size and int(labelled.max()) >= len(classes):
        raise BadRow(f"seg.png has the class number {int(labelled.max())}, and there are {len(classes)} names from 0")
    return Segmentation(picture, numbers, classes)


def records_of(row: Row) -> list[Record]:
    """The record types that a row can serve, in their order; UNPAIRED, two sources of CLEAN, is not one of a row."""
    served = []
    for record, reader in _READERS.items():
        try:
            reader(row)
        except BadRow:
            continue
        served.append(record)
    return served


def _image_text(row: Row) -> None:
    image_of(row)
    if not (caption_in(row.parts) or "").strip():
        raise BadRow("there is no caption")


def _grounding(row: Row) -> None:
    if "classes" in json_of(row, "caption, boxes and spans"):
        boxes_of(row)
    else:
        grounding_of(row)


_READERS: dict[Record, Callable[[Row], Any]] = {
    Record.IMAGE_TEXT: _image_text,
    Record.PAIR: pair_of,
    Record.EXPOSURES: exposures_of,
    Record.CLEAN: image_of,
    Record.GROUNDING: _grounding,
    Record.SEGMENTATION: segmentation_of,
}


def _picture(row: Row, role: str) -> StoredPicture:
    """The only picture of a role."""
    found = [name for kind in PICTURES if (name := f"{role}.{kind}") in row.parts]
    if not found:
        raise BadRow(f"the row has no picture {role}.* ({parts_there(row)})")
    if len(found) > 1:
        raise BadRow(f"the row has {len(found)} pictures {role}.*, {' and '.join(found)}, and one is looked for")
    return StoredPicture(found[0], row.parts[found[0]])


def _json_texts(row: Row, field: str) -> list[str]:
    given = json_of(row, "a caption")
    if field not in given:
        raise BadRow(f"the .json has no field {field!r}")
    texts = given[field] if isinstance(given[field], list) else [given[field]]
    if not all(isinstance(text, str) for text in texts):
        raise BadRow(f"the field {field!r} in .json is not text")
    return texts


def _check_box(number: int, box: Any, height: int, width: int) -> None:
    check_numbers(number, box)
    left, top, right, bottom = box
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise BadRow(
            f"box {number} is {shortened(box)}: left, top, right, bottom of something inside the picture of {width} x "
            f"{height} pixels"
        )


def _class_names(row: Row) -> tuple[str, ...]:
    given = json_of(row, "names of classes").get("classes") if "json" in row.parts else None
    if given is None:
        lines = text_of(row, "txt", "names of classes, nor a .json with the field 'classes'").rstrip().split("\n")
        given = [line.strip() for line in lines]
    return checked_names(given)
