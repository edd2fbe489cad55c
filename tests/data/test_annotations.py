"""Shards from files of boxes: what is read back is what the file said, and a wrong file is refused before writing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from lumiray.cli import main
from lumiray.data.annotations import annotated_rows
from lumiray.data.records import Detection, Grounding, boxes_of
from lumiray.errors import UserError
from lumiray.system import Row

CAPTION = "A dog and a frisbee"

COCO = {
    "images": [
        {"id": 7, "file_name": "a.png", "height": 40, "width": 60},
        {"id": 3, "file_name": "deep/b.png", "height": 40, "width": 60},
    ],
    "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}],
    "annotations": [
        {"id": 1, "image_id": 7, "bbox": [2, 3, 10.5, 20], "category_id": 90, "iscrowd": 0},
        {"id": 2, "image_id": 7, "bbox": [50, 30, 30, 30], "category_id": 1},
        {"id": 3, "image_id": 7, "bbox": [0, 0, 60, 40], "category_id": 1, "iscrowd": 1},
    ],
}
PHRASES = {
    "images": [{"id": 1, "file_name": "a.png", "caption": CAPTION}],
    "categories": [{"id": 1, "name": "object"}],
    "annotations": [
        {"id": 1, "image_id": 1, "bbox": [1, 2, 3, 4], "category_id": 1, "tokens_positive": [[2, 5]]},
        {"id": 2, "image_id": 1, "bbox": [5, 6, 7, 8], "category_id": 1, "tokens_positive": [[0, 5], [12, 19]]},
    ],
}
LINES = [
    {"filename": "a.png", "detection": {"instances": [{"bbox": [1, 2, 30, 40], "label": 4, "category": "cat"}]}},
    {"filename": "deep/b.png", "detection": {"instances": [{"bbox": [0, 0, 9, 9], "label": 2, "category": "dog"}]}},
    {
        "filename": "a.png",
        "grounding": {
            "caption": CAPTION,
            "regions": [
                {"bbox": [[1, 1, 5, 5], [6, 6, 9, 9]], "phrase": "a dog"},
                {"bbox": [2, 2, 8, 8], "phrase": ["a frisbee"], "tokens_positive": [[12, 19]]},
            ],
        },
    },
]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.png"):
        Image.new("RGB", (60, 40), "red").save(folder / name)
    return folder


def read_back(output: Path) -> list[Grounding | Detection]:
    """Rows as plain webdataset reads them."""
    samples = webdataset.WebDataset(str(output / "00000.tar"), shardshuffle=False)
    return [
        boxes_of(Row(one["__key__"], {part: data for part, data in one.items() if not part.startswith("__")}, 0))
        for one in samples
    ]


@pytest.fixture
def made(tmp_path: Path, pictures: Path) -> Callable[[str, str], list[Grounding | Detection]]:
    """Rows of the shards that the command made of a text."""

    def make(form: str, text: str) -> list[Grounding | Detection]:
        file = tmp_path / "boxes.json"
        file.write_text(text)
        arguments = ["shards", "make", str(file), str(tmp_path / "out"), "--format", form, "--pictures", str(pictures)]
        assert main(arguments) == 0
        return read_back(tmp_path / "out")

    return make


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_boxes_of_coco_come_back_as_corners_with_classes_in_the_order_of_their_ids(made: Any) -> None:
    first, second = made("coco", json.dumps(COCO))
    assert first.classes == second.classes == ("person", "toothbrush")
    assert first.labels == (1, 0)  # the crowd is left out
    np.testing.assert_array_equal(first.boxes, [[2, 3, 12.5, 23], [50, 30, 60, 40]])  # the second reached over the edge
    assert second.boxes.shape == (0, 4)  # detectors are tested on pictures without boxes, too


def test_what_lvis_says_of_classes_comes_back_as_their_places(made: Any) -> None:
    image = {"id": 7, "coco_url": "http://somewhere/deep/b.png", "neg_category_ids": [1]}
    whole = {**COCO, "images": [image | {"not_exhaustive_category_ids": [90]}], "annotations": []}
    (found,) = made("coco", json.dumps(whole))
    assert (found.absent, found.not_exhaustive) == ((0,), (1,))  # `person` is the first by its id


def test_a_class_of_lvis_that_is_not_there_is_refused(tmp_path: Path) -> None:
    image = {"id": 7, "file_name": "a.png", "neg_category_ids": [2]}
    (tmp_path / "boxes.json").write_text(json.dumps({**COCO, "images": [image], "annotations": []}))
    with pytest.raises(UserError, match="the field 'absent' is"):
        list(annotated_rows(str(tmp_path / "boxes.json"), "coco"))


def test_phrases_in_the_form_of_coco_come_back_with_all_their_spans(made: Any) -> None:
    (row,) = made("coco", json.dumps(PHRASES))
    assert row.caption == CAPTION and row.spans == (((2, 5),), ((0, 5), (12, 19)))
    np.testing.assert_array_equal(row.boxes, [[1, 2, 4, 6], [5, 6, 12, 14]])


def test_lines_hold_detection_and_grounding_and_a_phrase_is_found_in_its_caption(made: Any) -> None:
    cat, dog, phrases = made("odvg", lines(*LINES))
    assert cat.classes == dog.classes == ("dog", "cat")
    assert (cat.labels, dog.labels) == ((1,), (0,))
    assert [[CAPTION[start:end] for start, end in spans] for spans in phrases.spans] == [["A dog"]] * 2 + [["frisbee"]]
    np.testing.assert_array_equal(phrases.boxes, [[1, 1, 5, 5], [6, 6, 9, 9], [2, 2, 8, 8]])


def test_a_label_map_names_classes_without_a_box_and_lines_need_not(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "labels.json").write_text(json.dumps({"4": "cat", "10": "bird", "2": "dog"}))
    bare = json.loads(json.dumps(LINES[1]))
    del bare["detection"]["instances"][0]["category"]
    (tmp_path / "boxes.jsonl").write_text(lines(LINES[0], bare))
    arguments = ["shards", "make", str(tmp_path / "boxes.jsonl"), str(tmp_path / "out"), "--format", "odvg"]
    assert main([*arguments, "--pictures", str(pictures), "--label-map", str(tmp_path / "labels.json")]) == 0
    cat, dog = read_back(tmp_path / "out")
    assert cat.classes == dog.classes == ("dog", "cat", "bird")
    assert (cat.labels, dog.labels) == ((1,), (0,))


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        ({"4": "dog", "2": "cat"}, "row 1: the label 4 is 'cat' here and 'dog' before"),
        ({"2": "dog"}, "row 1: the label 4 is not in the label map"),
        ({"4": 1}, "'4' is no number of a class with its name"),
        (["cat"], "no JSON object: a label map is one"),
    ],
)
def test_a_wrong_label_map_is_refused(tmp_path: Path, label_map: Any, message: str) -> None:
    (tmp_path / "labels.json").write_text(json.dumps(label_map))
    (tmp_path / "boxes.jsonl").write_text(lines(LINES[0]))
    with pytest.raises(UserError, match=message):
        list(annotated_rows(str(tmp_path / "boxes.jsonl"), "odvg", label_map=str(tmp_path / "labels.json")))


def changed(change: Callable[[Any], None], of: Any = COCO) -> str:
    copy = json.loads(json.dumps(of))
    change(copy)
    return json.dumps(copy)


REFUSED = {
    "nan": (changed(lambda one: one["annotations"][0].update(bbox=[1, 2, float("nan"), 4])), "picture 7: box 0 is"),
    "three": (changed(lambda one: one["annotations"][1].update(bbox=[1, 2, 3])), "picture 7: box 1 is .*not four"),
    "id": (changed(lambda one: one["images"][0].update(id=[7])), r"`images`: 'id' is \[7\], no number or name"),
    "class": (changed(lambda one: one["annotations"][0].update(category_id=5)), "picture 7: a box has the label None"),
    "stray": (changed(lambda one: one["annotations"][0].update(image_id=8)), "annotation 1 belongs to the picture 8"),
    "twice": (changed(lambda one: one["images"][0].update(id=3)), "two of `images` have the id 3"),
    "same name": (changed(lambda one: one["categories"][0].update(name="person")), "the class 'person' is named twice"),
    "no name": (changed(lambda one: one["images"][0].pop("file_name")), "picture 7: the field 'file_name' is missing"),
    "span": (
        changed(lambda one: one["annotations"][0].update(tokens_positive=[[2, 99]]), PHRASES),
        r"picture 1: the spans of box 0 are \[\[2, 99\]\]",
    ),
    "no list": (json.dumps({"images": {}}), "'images' is no list of objects"),
    "lines": (lines(*LINES), "no JSON object.*lines are --format odvg"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_file_of_coco_is_refused_with_the_place(case: str, tmp_path: Path) -> None:
    text, message = REFUSED[case]
    (tmp_path / "boxes.json").write_text(text)
    with pytest.raises(UserError, match=message):
        list(annotated_rows(str(tmp_path / "boxes.json"), "coco"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"filename": "a.png"}, "row 2 has neither `detection` nor `grounding`"),
        ({"filename": "a.png", "grounding": {"caption": "a cat", "regions": [{"bbox": [0, 0, 1, 1], "phrase": "dog"}]}},
         "row 2: the phrase 'dog' is not in the caption 'a cat'"),
        ({"filename": "a.png", "detection": {"instances": [{"bbox": [0, 0, 1, 1], "label": 4, "category": "dog"}]}},
         "row 2: the label 4 is 'dog' here and 'cat' before"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_refused_with_its_number(line: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "boxes.jsonl").write_text(lines(LINES[0], line))
    with pytest.raises(UserError, match=message):
        list(annotated_rows(str(tmp_path / "boxes.jsonl"), "odvg"))


def test_nothing_is_written_where_the_file_or_a_picture_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = tmp_path / "boxes.json", tmp_path / "out"
    assert main(["shards", "make", str(file), str(output), "--format", "coco"]) != 0
    assert "There is no file" in capsys.readouterr().err
    file.write_text(json.dumps(COCO))
    assert main(["shards", "make", str(file), str(output), "--format", "coco"]) != 0
    assert "picture 7: the picture" in (said := capsys.readouterr().err) and "is not there" in said
    assert main(["shards", "make", str(file), str(output), "--pictures", str(tmp_path)]) != 0
    assert "say its --format" in capsys.readouterr().err
    assert not output.exists()


ENTITIES = """<annotation><filename>1.jpg</filename>
<object><name>11</name><name>12</name><bndbox><xmin>1</xmin><ymin>3</ymin><xmax>60</xmax><ymax>40</ymax></bndbox></object>
<object><name>11</name><bndbox><xmin>5</xmin><ymin>6</ymin><xmax>7</xmax><ymax>8</ymax></bndbox></object>
<object><name>13</name><scene>1</scene><nobndbox>0</nobndbox></object></annotation>"""
SENTENCE = "[/EN#11/people Two dogs] run after [/EN#12/animals/other a cat] in [/EN#13/scene a park] ."


@pytest.fixture
def entities(tmp_path: Path) -> Path:
    folder = tmp_path / "flickr"
    for name, text in {"Sentences/1.txt": f"{SENTENCE}\nNobody here .\n", "Annotations/1.xml": ENTITIES}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    Image.new("RGB", (60, 40), "red").save(folder / "1.jpg")
    return folder


def test_sentences_of_flickr_are_rows_with_the_boxes_of_their_phrases(entities: Path, tmp_path: Path) -> None:
    assert main(["shards", "make", str(entities), str(tmp_path / "out"), "--format", "flickr"]) == 0
    first, second = read_back(tmp_path / "out")
    assert isinstance(first, Grounding) and isinstance(second, Grounding)
    assert first.caption == "Two dogs run after a cat in a park ." and second.caption == "Nobody here ."
    named = [first.caption[start:end] for spans in first.spans for start, end in spans]
    assert named == ["Two dogs", "Two dogs", "a cat"] and not len(second.boxes)
    np.testing.assert_array_equal(first.boxes, [[0, 2, 60, 40], [4, 5, 7, 8], [0, 2, 60, 40]])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("Annotations/1.xml", '<!DOCTYPE a [<!ENTITY b "c">]><a/>', "1.xml cannot be read as boxes: a declaration"),
        ("Annotations/1.xml", "<annotation>", "1.xml cannot be read as boxes"),
        ("Annotations/1.xml", ENTITIES.replace("<xmin>5</xmin>", ""), "1.xml cannot be read as boxes"),
        ("Annotations/1.xml", ENTITIES.replace(">5<", ">nan<"), "line 1: box 1 is .nan.* not four finite numbers"),
        ("Annotations/1.xml", None, "1.xml is missing"),
        ("Sentences/1.txt", None, r"has no Sentences/\*.txt"),
    ],
)
def test_a_wrong_folder_of_flickr_is_refused(entities: Path, name: str, text: str | None, message: str) -> None:
    (entities / name).unlink() if text is None else (entities / name).write_text(text)
    with pytest.raises(UserError, match=message):
        list(annotated_rows(str(entities), "flickr"))
