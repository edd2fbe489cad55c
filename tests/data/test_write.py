"""Shards from tables and folders: right bytes, whole or absent, readable by webdataset and open_clip."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from lumiray import storage
from lumiray.data.index import ShardSet
from lumiray.data.listing import expand
from lumiray.data.unfinished import MARKER
from lumiray.data.write import make_shards, read_manifest, write_shards
from lumiray.errors import UserError
from lumiray.system import Row

Table = list[dict[str, Any]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven pictures of several kinds in a folder `in/pictures`."""
    folder = tmp_path / "in" / "pictures"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for number, kind in enumerate(["jpg", "png", "JPEG", "webp", "png", "jpg", "gif"]):
        pixels = draw.integers(0, 256, (20, 30 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"p{number}.{kind}")
    return folder


def rows_of(photos: Path) -> Table:
    names = sorted(os.listdir(photos))
    return [{"filepath": f"pictures/{name}", "title": f'caption, "{n}" \u732b'} for n, name in enumerate(names)]


def table(path: Path, rows: Table, kind: str) -> str:
    target = str(path / f"photos.{kind}")
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), target)
    elif kind == "jsonl":
        Path(target).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with open(target, "w", newline="", encoding="utf-8") as file:
            sink = csv.DictWriter(file, list(rows[0]), delimiter="\t" if kind == "tsv" else ",")
            sink.writeheader()
            sink.writerows(rows)
    return target


def contents(folder: str) -> list[Row]:
    shards = ShardSet.open(expand(folder))
    return [row for row in shards.read(np.arange(shards.num_rows)) if isinstance(row, Row)]


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "jsonl"])
def test_tables_become_shards_with_the_files_as_they_are(tmp_path: Path, photos: Path, kind: str) -> None:
    rows = rows_of(photos)
    manifest = make_shards(table(photos.parent, rows, kind), str(tmp_path / "out"), rows_per_shard=3)
    assert [shard.rows for shard in manifest.shards] == [3, 3, 1] and manifest.rows == 7 and not manifest.skipped
    for row, given in zip(contents(str(tmp_path / "out")), rows, strict=True):
        suffix = given["filepath"].rpartition(".")[2].lower()
        assert dict(row.parts) == {
            suffix: (photos.parent / given["filepath"]).read_bytes(),
            "txt": given["title"].encode(),
        }


def test_tab_separated_csv_of_open_clip_and_other_columns(tmp_path: Path, photos: Path) -> None:
    lines = ["title\tfilepath\tsource\twidth"]
    lines += [f"a {n}\t{photos}/{name}\tflickr\t{n}" for n, name in enumerate(sorted(os.listdir(photos)))]
    (tmp_path / "t.csv").write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    make_shards(str(tmp_path / "t.csv"), str(tmp_path / "out"))
    rows = contents(str(tmp_path / "out"))
    assert [row.parts["txt"].decode() for row in rows] == [f"a {n}" for n in range(7)]
    assert json.loads(rows[3].parts["json"]) == {"source": "flickr", "width": "3"}


def test_a_folder_of_pictures_with_texts_beside_them(tmp_path: Path, photos: Path) -> None:
    for name in os.listdir(photos):
        stem = name.partition(".")[0]
        if stem != "p4":
            (photos / f"{stem}.txt").write_text(f"text of {stem}\n")
    (photos / "p4.json").write_text('{"caption": "from json", "id": 4}')
    make_shards(str(photos.parent), str(tmp_path / "out"))
    rows = contents(str(tmp_path / "out"))
    assert [row.parts["txt"].decode() for row in rows] == ["from json" if n == 4 else f"text of p{n}" for n in range(7)]
    assert json.loads(rows[4].parts["json"]) == {"caption": "from json", "id": 4}


def test_bytes_depend_on_the_rows_alone(tmp_path: Path, photos: Path) -> None:
    source = table(photos.parent, rows_of(photos), "csv")
    first = make_shards(source, str(tmp_path / "one"), rows_per_shard=4)
    for name in os.listdir(photos):
        os.utime(photos / name, (1, 1))
    second = make_shards(source, str(tmp_path / "two"), rows_per_shard=4)
    assert first.shards == second.shards
    for shard in first.shards:
        data = (tmp_path / "two" / shard.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.bytes, shard.sha256)


def test_webdataset_and_open_clip_read_them(tmp_path: Path, photos: Path) -> None:
    from open_clip_train.data import get_dataset_size

    rows = rows_of(photos)
    make_shards(table(photos.parent, rows, "csv"), str(tmp_path / "out"), rows_per_shard=3)
    urls = [str(tmp_path / "out" / f"{n:05d}.tar") for n in range(3)]
    dataset = webdataset.WebDataset(urls, shardshuffle=False).decode("pilrgb").rename(image="jpg;png;jpeg;webp;gif")
    samples = list(dataset.to_tuple("__key__", "image", "txt"))
    assert [key for key, _, _ in samples] == [f"{n:09d}" for n in range(7)]
    assert [text for _, _, text in samples] == [row["title"] for row in rows]
    assert all(image.size[1] == 20 for _, image, _ in samples)
    assert get_dataset_size(str(tmp_path / "out" / "{00000..00002}.tar")) == (7, 3)


def test_the_index_is_there_already_and_right(tmp_path: Path, photos: Path) -> None:
    make_shards(table(photos.parent, rows_of(photos), "csv"), str(tmp_path / "out"), rows_per_shard=3)

    def no_scan(function: Any, items: Any) -> Any:
        assert not list(items)
        return []

    made = ShardSet.open(expand(str(tmp_path / "out")), scan_map=no_scan)
    apart = ShardSet.open(expand(str(tmp_path / "out")), index_folder=str(tmp_path / "index"))
    assert made.digest == apart.digest and made.num_rows == 7


def test_s3_to_s3(tmp_path: Path, s3: str, photos: Path) -> None:
    for name in os.listdir(photos):
        storage.put_file(str(photos / name), f"{s3}/in/pictures/{name}")
    storage.put_file(table(photos.parent, rows_of(photos), "jsonl"), f"{s3}/in/photos.jsonl")
    manifest = make_shards(f"{s3}/in/photos.jsonl", f"{s3}/out", rows_per_shard=5)
    assert [row.parts["txt"].decode() for row in contents(f"{s3}/out")] == [r["title"] for r in rows_of(photos)]
    assert read_manifest(f"{s3}/out") == manifest
    assert storage.list_names(f"{s3}/out") == [
        ".lumiray-index",
        "00000.tar",
        "00001.tar",
        "manifest.json",
        "sizes.json",
    ]


def test_a_folder_on_s3(tmp_path: Path, s3: str, photos: Path) -> None:
    for name in os.listdir(photos):
        (photos / name).with_suffix(".txt").write_text(f"text of {name}")
    for path in photos.iterdir():
        storage.put_file(str(path), f"{s3}/in/deeper/{path.name}")
    there = make_shards(f"{s3}/in", f"{s3}/out", rows_per_shard=4)
    assert there.shards == make_shards(str(photos), str(tmp_path / "out"), rows_per_shard=4).shards
    with pytest.raises(UserError, match="no table or folder"):
        make_shards(f"{s3}/nothing", f"{s3}/other")


def test_shards_close_at_the_number_of_bytes(tmp_path: Path) -> None:
    rows = [(f"k{n}", {"bin": bytes(1000 + 600 * (n % 2))}) for n in range(10)]  # 1536 and 2560 bytes as stored
    manifest = write_shards(rows, str(tmp_path / "out"), max_bytes=5000)
    assert [shard.rows for shard in manifest.shards] == [2] * 5
    assert all(shard.bytes <= 5000 + 1024 for shard in manifest.shards)
    assert [s.rows for s in write_shards(rows[:3], str(tmp_path / "tiny"), max_bytes=1).shards] == [1, 1, 1]


def test_missing_pictures_and_captions_are_named_before_anything_is_written(tmp_path: Path, photos: Path) -> None:
    rows = rows_of(photos)
    for number, (wrong, message) in enumerate(
        (
            ({"filepath": "pictures/none.jpg"}, r"photos.csv, row 5: the picture .*none\.jpg is not there"),
            ({"title": "  "}, "row 5: there is no caption"),
            ({"filepath": ""}, "row 5: there is no picture"),
        )
    ):
        source = table(photos.parent, [*rows[:4], rows[4] | wrong, *rows[5:]], "csv")
        with pytest.raises(UserError, match=message):
            make_shards(source, str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()
        manifest = make_shards(source, str(tmp_path / f"skipped{number}"), skip_missing=True)
        assert manifest.rows == 6 and manifest.skipped == 1 and "1 left out" in str(manifest)


def test_a_picture_is_one_by_its_name_or_its_first_bytes(tmp_path: Path, photos: Path) -> None:
    rows = rows_of(photos)
    (photos / "p1.png").rename(photos / "p1")
    (photos / "p2.JPEG").rename(photos / "p2.data")
    rows[1]["filepath"], rows[2]["filepath"] = "pictures/p1", "pictures/p2.data"
    make_shards(table(photos.parent, rows, "csv"), str(tmp_path / "out"))
    assert [sorted(row.parts)[0] for row in contents(str(tmp_path / "out"))[:4]] == ["jpg", "png", "jpg", "txt"]
    (photos / "p1").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"row 2: .*p1 is no picture"):
        make_shards(table(photos.parent, rows, "csv"), str(tmp_path / "other"))
    (photos / "p0.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"row 1: .*p0\.jpg is no picture"):
        make_shards(table(photos.parent, rows, "csv"), str(tmp_path / "other"))


@pytest.mark.parametrize(
    "path", ["pictures", "p\0.jpg", "p" * 5000 + ".jpg", "\ud800.jpg"], ids=["folder", "zero", "long", "surrogate"]
)
def test_what_cannot_be_a_picture_is_said_with_its_row(tmp_path: Path, photos: Path, path: str) -> None:
    rows = [*rows_of(photos)[:2], {"filepath": path, "title": "odd"}]
    source = table(photos.parent, rows, "jsonl")
    with pytest.raises(UserError, match=r"photos\.jsonl, row 3: .* is (not there|no picture)"):
        make_shards(source, str(tmp_path / "out"))
    assert make_shards(source, str(tmp_path / "out"), skip_missing=True).skipped == 1


def test_folders_below_come_after_their_folder_and_links_to_folders_are_not_followed(
    tmp_path: Path, photos: Path
) -> None:
    for place in (photos, photos / "a" / "b", photos / ".hidden"):
        place.mkdir(parents=True, exist_ok=True)
        for number in (0, 1):
            if place != photos:
                (place / f"p{number}.jpg").write_bytes((photos / "p0.jpg").read_bytes())
    for picture in photos.rglob("p?.*"):
        picture.with_suffix(".txt").write_text(str(picture.relative_to(photos)))
    (photos / "a" / "circle").symlink_to(photos)
    make_shards(str(photos), str(tmp_path / "out"))
    texts = [row.parts["txt"].decode() for row in contents(str(tmp_path / "out"))]
    assert texts == [
        *(f"p{n}.{kind}" for n, kind in enumerate(["jpg", "png", "JPEG", "webp", "png", "jpg", "gif"])),
        "a/b/p0.jpg",
        "a/b/p1.jpg",
    ]


def test_tables_that_cannot_be_used_are_refused(tmp_path: Path, photos: Path) -> None:
    def refused(text: str, message: str, name: str = "t.csv") -> None:
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=message):
            make_shards(str(tmp_path / name), str(tmp_path / "out"))

    refused("a,b\n1,2\n", "no column of pictures: it has a, b; name one of them filepath or image")
    refused("image,b\n1,2\n", "no column of captions")
    refused("image,title\n", "holds no rows")
    refused("image,title\na.jpg,one,two\n", "row 1 has 3 fields, the header has 2")
    refused("url,caption\nhttps://host/a.jpg,x\n", "lies on the web")
    refused("{", "line 1 is no JSON object", "t.jsonl")
    refused("no parquet", "is no Parquet file", "t.parquet")
    refused("x", "is no table that can be read", "t.xlsx")
    with pytest.raises(UserError, match="no table or folder"):
        make_shards(str(tmp_path / "none.csv"), str(tmp_path / "out"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        make_shards(str(tmp_path / "empty"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_output_that_holds_other_shards_is_left_alone(tmp_path: Path) -> None:
    write_shards([("a", {"txt": b"1"})], str(tmp_path / "out"))
    before = (tmp_path / "out" / "00000.tar").read_bytes()
    with pytest.raises(UserError, match="already holds shards"):
        write_shards([("b", {"txt": b"2"})], str(tmp_path / "out"))
    assert (tmp_path / "out" / "00000.tar").read_bytes() == before


def test_a_failed_writer_leaves_nothing_and_a_killed_one_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(fail_at: int) -> Any:
        for number in range(10):
            if number == fail_at:
                raise KeyboardInterrupt
            yield f"k{number}", {"txt": b"x" * number}

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        write_shards(rows(8), str(out), rows_per_shard=2)
    assert os.listdir(out) == []
    monkeypatch.setattr(storage, "remove_tree", lambda url: None)  # as if it had been killed
    with pytest.raises(KeyboardInterrupt):
        write_shards(rows(8), str(out), rows_per_shard=2)
    monkeypatch.undo()
    assert len([name for name in os.listdir(out) if name.endswith(".tar")]) == 3
    manifest = write_shards(rows(-1), str(out), rows_per_shard=6)
    assert len(manifest.shards) == 2 and expand(str(out)) == [f"{out}/00000.tar", f"{out}/00001.tar"]
    assert MARKER not in os.listdir(out)


@pytest.mark.parametrize("key", ["/abs", "../up", "a.b", "", "__meta__/x"])
def test_keys_that_would_not_come_back_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="would not be read back"):
        write_shards([(key, {"txt": b"1"})], str(tmp_path / "out"))


def test_a_damaged_manifest_is_said(tmp_path: Path) -> None:
    write_shards([("a", {"txt": b"1"})], str(tmp_path))
    (tmp_path / "manifest.json").write_text('{"form": "lumiray-shards-1"}')
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        read_manifest(str(tmp_path))


def test_pictures_without_texts_are_rows_where_that_is_said(tmp_path: Path) -> None:
    from lumiray.data.verify import verify

    folder = tmp_path / "faces"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    with pytest.raises(UserError, match=r"there is no caption.*pictures alone are rows with --no-captions"):
        make_shards(str(folder), str(tmp_path / "out"))
    assert make_shards(str(folder), str(tmp_path / "out"), captions=False).rows == 3
    assert [sorted(row.parts) for row in contents(str(tmp_path / "out"))] == [["png"]] * 3
    assert verify(str(tmp_path / "out")) == []
    (folder / "1.txt").write_text("one of them has a text")
    make_shards(str(folder), str(tmp_path / "mixed"), captions=False)
    assert [line.partition(": ")[2] for line in verify(str(tmp_path / "mixed"))] == [
        "row 0 (key '000000000'): there is no caption",
        "row 2 (key '000000002'): there is no caption",
    ]
