"""The texts of a stored row, and the fields of its `.json`: read and checked without its picture."""

from __future__ import annotations

import json
import math
from typing import Any

from lumiray.system import BadRow, Row

_SHOWN = 60  # characters of a wrong value that a message repeats


def text_of(row: Row, part: str, what: str) -> str:
    """A part of a row as text; `what` says in a message what it holds.

    Raises:
        BadRow: it is not there, or not UTF-8.
    """
    if part not in row.parts:
        raise BadRow(f"the row has no .{part} with {what} ({parts_there(row)})")
    try:
        return row.parts[part].decode("utf-8")
    except UnicodeDecodeError:
        raise BadRow(f"the text in .{part} is not UTF-8") from None


def json_of(row: Row, what: str) -> dict[str, Any]:
    """The object in a row's `.json`; `what` says in a message what is looked for.

    Raises:
        BadRow: it is not there, or no JSON object.
    """
    text = text_of(row, "json", what)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # thousands of brackets
        raise BadRow("the .json cannot be read") from None
    if not isinstance(value, dict):
        raise BadRow(f"the .json is no object, but {shortened(value)}")
    return value


def parts_there(row: Row) -> str:
    """The parts of a row, for a message."""
    return f"it has {', '.join(sorted(row.parts)) or 'nothing'}"


JUDGED = ("absent", "not_exhaustive")  # classes of which more is known than the boxes say


def check_annotations(given: dict[str, Any]) -> None:
    """Check the `.json` of a row with boxes, as far as that can be told without the picture: see `boxes_of`.

    Raises:
        BadRow: as said there.
    """
    detection = "classes" in given
    boxes, tied = given.get("boxes"), given.get("labels" if detection else "spans")
    if not isinstance(boxes, list) or not isinstance(tied, list) or len(boxes) != len(tied):
        what = "label" if detection else "list of spans"
        raise BadRow(f"the .json needs boxes, and one {what} for each: it has {shortened(boxes)}, {shortened(tied)}")
    for number, box in enumerate(boxes):
        check_numbers(number, box)
    if not detection:
        caption = caption_of(given)
        for number, several in enumerate(tied):
            checked_spans(number, several, len(caption))
        return
    names = len(checked_names(given["classes"]))
    wrong = [label for label in tied if type(label) is not int or not 0 <= label < names]
    if wrong:
        raise BadRow(f"a box has the label {shortened(wrong[0])}, and there are {names} names from 0")
    for field in JUDGED:
        places = given.get(field, [])
        if not isinstance(places, list) or any(type(one) is not int or not 0 <= one < names for one in places):
            raise BadRow(f"the field {field!r} is {shortened(places)}: it lists places of the {names} names, from 0")


def check_numbers(number: int, box: Any) -> None:
    """Check that a box, `number` in its row, is four finite numbers.

    Raises:
        BadRow: it is not.
    """
    if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(value) for value in box):
        raise BadRow(f"box {number} is {shortened(box)}, not four finite numbers")


def checked_spans(number: int, spans: Any, length: int) -> tuple[tuple[int, int], ...]:
    """The spans of a box, `number` in its row, in a caption of so many characters.

    Raises:
        BadRow: they are not one or more [start, end) inside it.
    """
    wrong = BadRow(f"the spans of box {number} are {shortened(spans)}: one or more [start, end) in {length} characters")
    if not isinstance(spans, list) or not spans:
        raise wrong
    for span in spans:
        if not isinstance(span, list) or len(span) != 2 or not all(type(value) is int for value in span):
            raise wrong
        if not 0 <= span[0] < span[1] <= length:
            raise wrong
    return tuple((start, end) for start, end in spans)


def caption_of(given: dict[str, Any]) -> str:
    """The field `caption`.

    Raises:
        BadRow: it is no text, or empty.
    """
    caption = given.get("caption")
    if not isinstance(caption, str) or not caption.strip():
        raise BadRow(f"the field 'caption' in .json is no text, but {shortened(caption)}")
    return caption


def checked_names(given: Any) -> tuple[str, ...]:
    """Names of classes.

    Raises:
        BadRow: they are no list of one or more texts, one is empty, or comes twice.
    """
    if not isinstance(given, list) or not all(isinstance(name, str) and name.strip() for name in given) or not given:
        raise BadRow(f"the names of classes are {shortened(given)}: one or more texts, none of them empty")
    if len(set(given)) < len(given):
        double = next(name for name in given if given.count(name) > 1)
        raise BadRow(f"the class {double[:_SHOWN]!r} is named twice")
    return tuple(given)


def shortened(value: Any) -> str:
    """A wrong value as a message repeats it."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and -math.inf < value < math.inf
