"""Files of boxes that people have, as rows of pictures with their `.json` (`records.boxes_of`).

    coco    one JSON object: `images`, `annotations` with `bbox` [x, y, width, height], `categories`; where images carry
            a `caption` and annotations `tokens_positive`, the phrase-grounding files of MDETR and GLIP; where they have
            `neg_category_ids` and `not_exhaustive_category_ids`, those of LVIS
    odvg    a JSON object per line with `filename` and either `detection` (instances with `bbox` [left, top, right,
            bottom], `label` and `category`) or `grounding` (`caption`, and regions with `bbox` and `phrase`), as
            open-set detectors read them; with their label map, a JSON object of names by numbers, classes without a
            box are known, too, and `category` may be missing
    flickr  a folder, as Flickr30k Entities comes (`flickr_entities`)

All is checked before anything is written but what only the picture tells: boxes that reach over its edge are cut to it
by who reads the row.  A file of COCO's form is read whole into memory; lines are read one at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from lumiray import storage
from lumiray.data.flickr_entities import entity_rows
from lumiray.data.row_texts import check_annotations
from lumiray.data.table import Listed, json_lines, picture_address
from lumiray.errors import UserError
from lumiray.storage import without_secrets
from lumiray.system import BadRow


def annotated_rows(
    source: str, form: str, pictures: str | None = None, label_map: str | None = None
) -> Iterator[Listed]:
    """Rows of a file of boxes, in its order; pictures without boxes are rows, too, for detectors are tested on them.

    Args:
        source: the file, or the folder of the form flickr; local or s3://.
        form: a key of `FORMS`.
        pictures: folder that the names of pictures are relative to; the source's own if None.
        label_map: of the form odvg: file with the names of all classes.

    Raises:
        UserError: the file is not there or not of this form, or a picture's boxes are wrong (which, and what it is).
    """
    source = storage.absolute(source)
    if form != FOLDER and not storage.exists(source):
        raise UserError(f"There is no file {without_secrets(source)}. Check the path.")
    own = source if form == FOLDER else storage.parent(source)
    folder = storage.absolute(pictures) if pictures is not None else own
    read = partial(_odvg, label_map=label_map) if form == LINES else FORMS[form]
    for where, name, given in read(source):
        try:
            check_annotations(given)
        except BadRow as error:
            raise UserError(f"{where}: {error}. Mend it in the file.") from None
        yield Listed(where, {"": picture_address(str(name), folder, where)}, more=given)


_Rows = Iterator[tuple[str, str, dict[str, Any]]]
"""Where a row stands, its picture's name, its `.json`."""


def _coco(source: str) -> _Rows:
    whole = _object(source)
    name = storage.base_name(source)
    images, categories = _table(whole, "images", name), _table(whole, "categories", name)
    places = {number: place for place, number in enumerate(sorted(categories))}  # as the published code counts them
    classes = [_field(categories[number], "name", f"{name}, category {number}") for number in places]
    boxes: dict[Any, list[dict[str, Any]]] = {}
    for number, one in _table(whole, "annotations", name).items():
        where = f"{name}, annotation {number}"
        if (owner := _number(one, "image_id", where)) not in images:
            raise UserError(f"{where} belongs to the picture {owner!r}, and `images` has none of this id.")
        if not one.get("iscrowd"):  # a region, not a thing: published recipes leave it out
            boxes.setdefault(owner, []).append(one)
    for number, image in images.items():
        where = f"{name}, picture {number}"
        own = boxes.get(number, [])
        given: dict[str, Any] = {"image_id": number, "boxes": [_corners(one.get("bbox")) for one in own]}
        if "caption" in image:
            given |= {"caption": image["caption"], "spans": [one.get("tokens_positive") for one in own]}
        else:
            given |= {
                "classes": classes,
                "labels": [places.get(_number(one, "category_id", f"{name}, annotation {one['id']}")) for one in own],
            }
            for field, theirs in JUDGED.items():
                if theirs in image:
                    given[field] = [places.get(one) for one in image[theirs]]
        yield where, _name_in(image, where), given


JUDGED = {"absent": "neg_category_ids", "not_exhaustive": "not_exhaustive_category_ids"}  # in LVIS


def _name_in(image: dict[str, Any], where: str) -> str:
    """A picture's name; in files of LVIS, which have none, `val2017/000000397133.jpg` of its address."""
    if "file_name" not in image and "coco_url" in image:
        return "/".join(str(image["coco_url"]).split("/")[-2:])
    return str(_field(image, "file_name", where))


def _odvg(source: str, label_map: str | None = None) -> _Rows:
    names = _classes_of_lines(source, _labels(label_map) if label_map else None)
    places, classes = {number: place for place, number in enumerate(names)}, list(names.values())
    for where, line in _lines(source):
        given: dict[str, Any]
        if "grounding" in line:
            caption = _field(line["grounding"], "caption", where)
            given = {"caption": caption, "boxes": [], "spans": []}
            for region in _list(line["grounding"], "regions", where):
                spans = region.get("tokens_positive") or [_span(caption, _phrase(region, where), where)]
                box = _field(region, "bbox", where)
                several = box if isinstance(box, list) and box and isinstance(box[0], list) else [box]
                given["boxes"] += several
                given["spans"] += [spans] * len(several)
        else:
            own = _list(line["detection"], "instances", where)
            given = {
                "classes": classes,
                "boxes": [one.get("bbox") for one in own],
                "labels": [places[one["label"]] for one in own],
            }
        yield where, _field(line, "filename", where), given


FOLDER, LINES = "flickr", "odvg"
FORMS: dict[str, Callable[[str], _Rows]] = {"coco": _coco, LINES: _odvg, FOLDER: entity_rows}


def _labels(label_map: str) -> dict[int, str]:
    """Names of classes by their numbers."""
    found = _object(storage.absolute(label_map), 'a label map is one, such as {"0": "person", "1": "bicycle"}')
    wrong = next((key for key, name in found.items() if not (key.isdecimal() and isinstance(name, str))), None)
    if wrong is not None or not found:
        raise UserError(f"{without_secrets(label_map)}: {wrong!r} is no number of a class with its name.")
    return {int(key): name for key, name in found.items()}


def _classes_of_lines(source: str, told: dict[int, str] | None) -> dict[int, str]:
    """Names of the classes by their numbers: those of the label map, or those of which there is a box."""
    found = dict(told or {})
    for where, line in _lines(source):
        if "grounding" in line:
            continue
        if "detection" not in line:
            raise UserError(f"{where} has neither `detection` nor `grounding`: it is no line of the form odvg.")
        for one in _list(line["detection"], "instances", where):
            label = _field(one, "label", where)
            if told is not None and not (type(label) is int and label in told):
                raise UserError(f"{where}: the label {label!r} is not in the label map.")
            name = _field(one, "category", where) if told is None else one.get("category", found[label])
            if type(label) is not int or found.setdefault(label, name) != name:
                raise UserError(f"{where}: the label {label!r} is {name!r} here and {found.get(label)!r} before.")
    return dict(sorted(found.items()))


def _lines(source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(json_lines(source), start=1):
        yield f"{storage.base_name(source)}, row {number}", line


def _phrase(region: dict[str, Any], where: str) -> str:
    phrase = _field(region, "phrase", where)
    return str(phrase[0] if isinstance(phrase, list) and phrase else phrase)


def _span(caption: str, phrase: str, where: str) -> list[int]:
    start = caption.lower().find(phrase.lower()) if phrase else -1
    if start < 0:
        raise UserError(f"{where}: the phrase {phrase!r} is not in the caption {caption[:80]!r}.")
    return [start, start + len(phrase)]


def _corners(box: Any) -> Any:
    """Left, top, right, bottom of left, top, width, height; what is no box stays, for the check to name it."""
    if not isinstance(box, list) or len(box) != 4 or not all(type(one) in (int, float) for one in box):
        return box
    left, top, width, height = box
    return [left, top, left + width, top + height]


def _object(source: str, form: str = "the form coco is one; lines are --format odvg") -> dict[str, Any]:
    try:
        found = json.loads(storage.read_bytes(source))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{without_secrets(source)} is no JSON object: {form}.")
    return found


def _table(whole: dict[str, Any], table: str, name: str) -> dict[Any, dict[str, Any]]:
    """Objects of a list by their ids."""
    found: dict[Any, dict[str, Any]] = {}
    for one in _list(whole, table, name):
        number = _number(one, "id", f"{name}, `{table}`")
        if number in found:
            raise UserError(f"{name}: two of `{table}` have the id {number!r}.")
        found[number] = one
    return found


def _list(given: Any, name: str, where: str) -> list[dict[str, Any]]:
    found = _field(given, name, where)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise UserError(f"{where}: {name!r} is no list of objects.")
    return found


def _number(given: dict[str, Any], name: str, where: str) -> int | str:
    found = _field(given, name, where)
    if not isinstance(found, int | str):
        raise UserError(f"{where}: {name!r} is {found!r}, no number or name.")
    return found


def _field(given: Any, name: str, where: str) -> Any:
    if not isinstance(given, dict) or name not in given:
        raise UserError(f"{where}: the field {name!r} is missing.")
    return given[name]
