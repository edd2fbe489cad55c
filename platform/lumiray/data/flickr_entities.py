"""Flickr30k Entities as people have it: sentences with marked phrases, and boxes in a file of XML for each picture.

    Sentences/36979.txt      [/EN#1/people A group] of people in [/EN#2/scene a park] .      one sentence a line
    Annotations/36979.xml    <object><name>1</name><bndbox><xmin>12</xmin>...</bndbox></object>

A sentence is a row; phrases without a box (scenes, things not seen) are plain text in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

from lumiray import storage
from lumiray.errors import UserError
from lumiray.storage import without_secrets

SENTENCES, ANNOTATIONS = "Sentences", "Annotations"
_PHRASE = re.compile(r"\[/EN#(\d+)(?:/[^\s\]]*)?\s([^\]]*)\]")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def entity_rows(folder: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Where each sentence stands, its picture's name, and its caption, boxes and spans (`records.Grounding`).

    Raises:
        UserError: there are no sentences, a picture has no boxes' file, or one cannot be read.
    """
    names = sorted(name for name in storage.list_names(storage.join(folder, SENTENCES)) if name.endswith(".txt"))
    if not names:
        raise UserError(f"{without_secrets(folder)} has no {SENTENCES}/*.txt, as Flickr30k Entities has them.")
    for name in names:
        stem = name.removesuffix(".txt")
        boxes = _boxes(storage.join(folder, ANNOTATIONS, f"{stem}.xml"))
        try:
            text = storage.read_bytes(storage.join(folder, SENTENCES, name)).decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{SENTENCES}/{name} is not UTF-8 text.") from None
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                yield f"{SENTENCES}/{name}, line {number}", f"{stem}.jpg", _grounded(line.strip(), boxes)


def _grounded(line: str, boxes: dict[str, list[list[float]]]) -> dict[str, Any]:
    caption, place = "", 0
    found: list[list[float]] = []
    spans: list[list[list[int]]] = []
    for phrase in _PHRASE.finditer(line):
        caption += line[place : phrase.start()]
        own = boxes.get(phrase[1], [])
        found += own
        spans += [[[len(caption), len(caption) + len(phrase[2])]]] * len(own)
        caption, place = caption + phrase[2], phrase.end()
    return {"caption": caption + line[place:], "boxes": found, "spans": spans}


def _boxes(file: str) -> dict[str, list[list[float]]]:
    """Boxes by the number of what they hold, as edges: the file counts pixels from 1, both ends within."""
    name = f"{ANNOTATIONS}/{storage.base_name(file)}"
    try:
        text = storage.read_bytes(file)
    except storage.NotThere:
        raise UserError(f"{name} is missing, and there are sentences of this picture.") from None
    try:
        if b"<!" in text:  # entities of XML grow without bound, and no such file has any
            raise ValueError("a declaration")
        found: dict[str, list[list[float]]] = {}
        for one in ElementTree.fromstring(text).iter("object"):
            if (box := one.find("bndbox")) is None:
                continue
            left, top, right, bottom = (float(box.findtext(corner, "")) for corner in _CORNERS)
            for number in one.findall("name"):
                found.setdefault(number.text or "", []).append([left - 1, top - 1, right, bottom])
        return found
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{name} cannot be read as boxes: {error}.") from None
