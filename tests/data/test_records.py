"""Every record type from a shard that webdataset wrote, what is wrong with rows, and folders of named parts."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from lumiray.data.describe import describe
from lumiray.data.index import ShardSet
from lumiray.data.listing import expand
from lumiray.data.plan import Plan, PlanSettings, Source
from lumiray.data.records import (
    exposures_of,
    grounding_of,
    image_of,
    pair_of,
    records_of,
    segmentation_of,
    texts_of,
)
from lumiray.data.verify import verify
from lumiray.data.write import make_shards
from lumiray.errors import UserError
from lumiray.system import BadRow, Record, Row

HEIGHT, WIDTH = 10, 16
BOXES = {
    "caption": "a cat on a mat",
    "boxes": [[0, 0, 16, 10], [1.5, 2, 3, 4.5]],
    "spans": [[[2, 5]], [[0, 1], [11, 14]]],
}
NUMBERS = (np.arange(HEIGHT * WIDTH) % 4).reshape(HEIGHT, WIDTH).astype(np.uint8)
NUMBERS[NUMBERS == 3] = 255
CLASSES = ("sky", "tree", "road")


def levels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def file_of(pixels: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def mask(numbers: np.ndarray = NUMBERS) -> bytes:
    """Numbers with a palette, as they are published."""
    image = Image.fromarray(numbers)
    image = image.convert("P") if image.mode != "P" else image
    image.putdata(numbers.ravel().tolist())
    image.putpalette([value for n in range(256) for value in (n * 7 % 256, n * 5 % 256, n * 3 % 256)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def as_json(**changes: Any) -> bytes:
    return json.dumps(BOXES | changes).encode()


def row(**parts: bytes) -> Row:
    """A row of parts, a double underscore in a name being a dot and a leading one nothing."""
    return Row("key", {name.lstrip("_").replace("__", "."): data for name, data in parts.items()}, 0)


ROWS = {
    Record.IMAGE_TEXT: {"jpg": file_of(levels(), "JPEG"), "txt": b"a cat"},
    Record.PAIR: {"lq.png": file_of(levels(1)), "gt.webp": file_of(levels(2), "WEBP")},
    Record.EXPOSURES: {f"{n}.png": file_of(levels(n)) for n in range(12)},
    Record.CLEAN: {"tiff": file_of(levels(3), "TIFF")},
    Record.GROUNDING: {"png": file_of(levels(4)), "json": as_json()},
    Record.SEGMENTATION: {"png": file_of(levels(5)), "seg.png": mask(), "txt": "\n".join(CLASSES).encode()},
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[Record, Row]:
    """One row of each type, through a shard."""
    path = tmp_path_factory.mktemp("shards") / "a.tar"
    with webdataset.TarWriter(str(path)) as sink:
        for record, parts in ROWS.items():
            sink.write({"__key__": record.value, **parts})
    shards = ShardSet.open(expand(str(path)))
    rows = [each for each in shards.read(np.arange(len(ROWS))) if isinstance(each, Row)]
    return {Record(each.key): each for each in rows}


def test_picture_and_text(written: dict[Record, Row]) -> None:
    picture = image_of(written[Record.IMAGE_TEXT])
    assert (picture.part, picture.data) == ("jpg", ROWS[Record.IMAGE_TEXT]["jpg"])
    assert texts_of(written[Record.IMAGE_TEXT]) == ["a cat"]
    assert texts_of(row(json=b'{"alt": ["one", "two"], "title": "three"}'), "alt") == ["one", "two"]
    assert np.array_equal(image_of(written[Record.CLEAN]).decoded(), levels(3))
    assert image_of(row(png=PNG, jpg=PNG)).part == "jpg"  # as open_clip takes one of several


def test_pair_and_exposures(written: dict[Record, Row]) -> None:
    pair = pair_of(written[Record.PAIR])
    assert {name: one.part for name, one in pair.items()} == {"lq": "lq.png", "gt": "gt.webp"}
    assert np.array_equal(pair["lq"].decoded(), levels(1))
    exposures = exposures_of(written[Record.EXPOSURES])
    assert [one.part for one in exposures] == [f"{n}.png" for n in range(12)]  # 10 after 9
    assert all(np.array_equal(one.decoded(), levels(n)) for n, one in enumerate(exposures))


def test_boxes_and_spans(written: dict[Record, Row]) -> None:
    found = grounding_of(written[Record.GROUNDING])
    assert (found.picture.part, found.caption) == ("png", "a cat on a mat")
    assert found.boxes.dtype == np.float64 and found.boxes.tolist() == BOXES["boxes"]
    assert found.spans == (((2, 5),), ((0, 1), (11, 14)))
    none = grounding_of(row(png=file_of(levels()), json=as_json(boxes=[], spans=[])))
    assert none.boxes.shape == (0, 4) and none.spans == ()


def test_classes_are_numbers_and_names(written: dict[Record, Row]) -> None:
    found = segmentation_of(written[Record.SEGMENTATION])
    assert found.classes == CLASSES and found.numbers.dtype == np.uint8
    assert np.array_equal(found.numbers, NUMBERS)
    named = row(png=file_of(levels()), seg__png=mask(), json=json.dumps({"classes": CLASSES}).encode(), txt=b"a street")
    assert segmentation_of(named).classes == CLASSES


def test_rows_tell_what_they_serve(written: dict[Record, Row], tmp_path: Path) -> None:
    told = {record: {str(one) for one in records_of(each)} for record, each in written.items()}
    assert told == {
        Record.IMAGE_TEXT: {"image-text", "clean"},
        Record.PAIR: {"pair"},
        Record.EXPOSURES: {"exposures"},
        Record.CLEAN: {"clean"},
        Record.GROUNDING: {"image-text", "clean", "grounding"},
        Record.SEGMENTATION: {"image-text", "clean", "segmentation"},
    }
    for name, rows in (("one", [Record.IMAGE_TEXT] * 2), ("two", [Record.IMAGE_TEXT, Record.CLEAN])):
        with webdataset.TarWriter(str(tmp_path / f"{name}.tar")) as sink:
            for number, record in enumerate(rows):
                sink.write({"__key__": f"{number}", **ROWS[record]})
    assert "serves           image-text, clean\n" in f"{describe(str(tmp_path / 'one.tar'))}\n"
    assert "serves           image-text (1 of 2 rows), clean\n" in f"{describe(str(tmp_path / 'two.tar'))}\n"


PNG = file_of(levels())
BIG = 10**400


@pytest.mark.parametrize(
    ("reader", "given", "told"),
    [
        (image_of, row(txt=b"x"), r"the row has no picture \(it has txt\)"),
        (image_of, row(), r"the row has no picture \(it has nothing\)"),
        (texts_of, row(png=PNG), r"no \.txt with a caption \(it has png\)"),
        (texts_of, row(txt=b"\xff"), r"the text in \.txt is not UTF-8"),
        (texts_of, row(txt=b" \n"), "the caption is empty"),
        (pair_of, row(lq__png=PNG), r"no picture gt\.\* \(it has lq\.png\)"),
        (pair_of, row(lq__png=PNG, gt__png=PNG, gt__jpg=PNG), r"2 pictures gt\.\*, gt\.jpg and gt\.png"),
        (exposures_of, row(_0__png=PNG), r"no exposures 0\.\*, 1\.\* and so on.*it has 0\.png"),
        (exposures_of, row(_0__png=PNG, _2__png=PNG), r"without a hole \(it has 0\.png, 2\.png\)"),
        (exposures_of, row(_1__png=PNG, _2__png=PNG), r"without a hole"),
        (exposures_of, row(_0__png=PNG, _1__png=PNG, _01__jpg=PNG), r"two exposures 1: 01\.jpg and 1\.png"),
        (grounding_of, row(json=as_json()), "no picture"),
        (grounding_of, row(png=PNG), r"no \.json with caption, boxes and spans"),
        (grounding_of, row(png=PNG, json=b'{"caption": "\xff"}'), r"the text in \.json is not UTF-8"),
        (grounding_of, row(png=PNG, json=b"{"), r"the \.json cannot be read"),
        (grounding_of, row(png=PNG, json=b"[" * 100_000), r"the \.json cannot be read"),
        (grounding_of, row(png=PNG, json=b"[]"), r"the \.json is no object, but \[\]"),
        (grounding_of, row(png=b"broken", json=as_json()), "png: not a picture"),
        (grounding_of, row(png=PNG, json=as_json(caption=3)), "'caption' in .json is no text, but 3"),
        (grounding_of, row(png=PNG, json=as_json(spans=[[[0, 1]]])), "one list of spans for each"),
        (grounding_of, row(png=PNG, json=as_json(boxes=None)), "one list of spans for each: it has None"),
        *(
            (grounding_of, row(png=PNG, json=as_json(boxes=[box], spans=[[[0, 1]]])), rf"box 0 is .*{told}")
            for box, told in (
                ([0, 0, float("nan"), 1], "not four finite numbers"),
                ([0, 0, float("inf"), 1], "not four finite numbers"),
                ([0, 0, 1], "not four finite numbers"),
                ([0, 0, True, 1], "not four finite numbers"),
                ("all", "not four finite numbers"),
                ([0, 0, BIG, 1], "inside the picture of 16 x 10 pixels"),
                ([0, 0, 16.5, 1], "inside the picture of 16 x 10 pixels"),
                ([-1, 0, 5, 5], "inside the picture"),
                ([5, 0, 5, 5], "inside the picture"),
            )
        ),
        *(
            (grounding_of, row(png=PNG, json=as_json(boxes=[[0, 0, 1, 1]], spans=[spans])), r"the spans of box 0 are")
            for spans in ([], [[0, 15]], [[-1, 2]], [[3, 3]], [[0, 1.5]], [[0, True]], [0, 1], {"0": 1})
        ),
        (segmentation_of, row(png=PNG, txt=b"sky"), r"no seg\.png \(it has png, txt\)"),
        (segmentation_of, row(png=PNG, seg__png=mask()), r"no \.txt with names of classes, nor a \.json"),
        (segmentation_of, row(png=PNG, seg__png=mask(), json=b'{"classes": []}'), r"names of classes are \[\]"),
        (segmentation_of, row(png=PNG, seg__png=mask(), txt=b"a\n\nb"), "none of them empty"),
        (segmentation_of, row(png=PNG, seg__png=mask(), txt=b"a\nb\na"), "the class 'a' is named twice"),
        (segmentation_of, row(png=PNG, seg__png=mask(), txt=b"a\nb"), "class number 2, and there are 2 names"),
        (segmentation_of, row(png=PNG, seg__png=PNG, txt=b"a"), "seg.png: numbers of classes are a palette's or grey"),
        (
            segmentation_of,
            row(png=PNG, seg__png=mask(NUMBERS[:, :9]), txt=b"a\nb\nc"),
            "png has 16 x 10 pixels and seg.png 9 x 10",
        ),
    ],
)
def test_rows_that_cannot_be_used_say_why(reader: Any, given: Row, told: str) -> None:
    with pytest.raises(BadRow, match=told):
        reader(given)


def test_unpaired_sources_go_their_own_ways() -> None:
    """Two sources of equal weight: every row once in each own epoch, and no order follows the other."""
    dark, bright, batch = 60, 84, 12
    plan = Plan([Source("dark", dark), Source("bright", bright)], PlanSettings(4, 16), batch, 6, seed=1)
    batches = [plan.batch(step) for step in range(7 * bright * 2 // batch)]
    orders: list[np.ndarray] = []
    for number, rows in enumerate((dark, bright)):
        mine = [
            (int(e), int(r)) for b in batches for s, e, r in zip(b.source, b.epoch, b.row, strict=True) if s == number
        ]
        assert len(mine) == 7 * bright  # as often as the other
        for epoch in range(len(mine) // rows):
            part = mine[epoch * rows : (epoch + 1) * rows]
            assert {one for one, _ in part} == {epoch} and sorted(r for _, r in part) == list(range(rows))
        orders.append(np.array([r for _, r in mine]))
    assert all(np.bincount(one.source).tolist() == [6, 6] for one in batches)
    partners: dict[int, set[int]] = {}
    for a, b in zip(*orders, strict=True):
        partners.setdefault(int(a), set()).add(int(b))
    assert np.mean([len(one) for one in partners.values()]) > 8  # of the 9 or 10 times that a row came
    assert abs(np.corrcoef(*orders)[0, 1]) < 0.15
    alone = Plan([Source("bright", bright)], PlanSettings(4, 16), batch, 6, seed=1)
    assert np.array_equal(np.concatenate([alone.batch(t).row for t in range(7)]), orders[1][: 7 * batch])


def folder(path: Path, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        target = path / "set" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return str(path / "set")


def rows_of(path: str) -> list[Row]:
    shards = ShardSet.open(expand(path))
    return [each for each in shards.read(np.arange(shards.num_rows)) if isinstance(each, Row)]


def test_files_named_as_parts_become_one_row(tmp_path: Path) -> None:
    parts = {
        **{f"deep/a.{part}": data for part, data in ROWS[Record.EXPOSURES].items()},
        **{f"b.{part}": data for part, data in ROWS[Record.GROUNDING].items()},
        **{f"c.v1.{part}": data for part, data in ROWS[Record.SEGMENTATION].items()},
        **{f"d.{part}": data for part, data in ROWS[Record.PAIR].items()},
    }
    make_shards(folder(tmp_path, parts), str(tmp_path / "out"))
    rows = rows_of(str(tmp_path / "out"))
    assert [dict(one.parts) for one in rows] == [
        ROWS[Record.GROUNDING] | {"txt": b"a cat on a mat"},
        ROWS[Record.SEGMENTATION],
        ROWS[Record.PAIR],
        ROWS[Record.EXPOSURES],
    ]
    assert segmentation_of(rows[1]).classes == CLASSES
    assert verify(str(tmp_path / "out")) == []


def test_a_dot_in_a_name_makes_no_part_of_it(tmp_path: Path) -> None:
    """Texts of their own, a hole in the numbers, or no partner: each picture is a row as it always was."""
    names = ("v1.0", "v1.1", "year.2021", "year.2022", "x.lq", "y.seg")
    files = {f"{name}.png": PNG for name in names} | {f"{name}.txt": name.encode() for name in names}
    make_shards(folder(tmp_path, files), str(tmp_path / "out"))
    assert [one.parts["txt"].decode() for one in rows_of(str(tmp_path / "out"))] == sorted(names)
    (tmp_path / "set" / "y.seg.txt").unlink()
    with pytest.raises(UserError, match=r"y\.seg\.png: there is no caption"):
        make_shards(str(tmp_path / "set"), str(tmp_path / "other"))


def test_two_files_for_one_part_are_not_chosen_between(tmp_path: Path) -> None:
    where = folder(tmp_path, {"a.0.png": PNG, "a.1.png": PNG, "a.1.jpg": PNG})
    with pytest.raises(UserError, match=r"holds both a\.1\.jpg and a\.1\.png, and only one of them can be 1 of a"):
        make_shards(where, str(tmp_path / "out"))
