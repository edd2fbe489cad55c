"""Pairs of pictures from `lq/` and `gt/`: partners found by name, bytes as they are, nothing paired by guess."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from lumiray import storage
from lumiray.cli import main
from lumiray.data.verify import verify
from lumiray.data.write import make_shards
from lumiray.errors import UserError


def picture(name: str) -> bytes:
    """A picture of its own for every name, in the form that the name says."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(len(name) * 131 + sum(name.encode())).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[name.rpartition(".")[2]])
    return buffer.getvalue()


NAMES = (
    "lq/b.png",
    "gt/b.png",
    "lq/a.jpg",
    "gt/a.png",
    "lq/deep/er/c.png",
    "gt/deep/er/c.webp",
    "lq/v1.5.png",
    "gt/v1.5.png",
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Four pairs: of one form, of two forms, in subfolders, with a dot in their name."""
    for name in NAMES:
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(name))
    return tmp_path / "set"


def test_plain_webdataset_reads_the_pairs_with_their_own_bytes(tree: Path, tmp_path: Path) -> None:
    manifest = make_shards(str(tree), str(tmp_path / "out"), rows_per_shard=3)
    assert [shard.rows for shard in manifest.shards] == [3, 1] and not manifest.skipped
    urls = [str(tmp_path / "out" / shard.name) for shard in manifest.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"{n:09d}" for n in range(4)]
    parts = [{part: data for part, data in sample.items() if not part.startswith("__")} for sample in samples]
    assert parts == [
        {"lq.jpg": picture("lq/a.jpg"), "gt.png": picture("gt/a.png")},
        {"lq.png": picture("lq/b.png"), "gt.png": picture("gt/b.png")},
        {"lq.png": picture("lq/v1.5.png"), "gt.png": picture("gt/v1.5.png")},
        {"lq.png": picture("lq/deep/er/c.png"), "gt.webp": picture("gt/deep/er/c.webp")},
    ]
    decoded = next(iter(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8")))
    assert decoded["lq.jpg"].shape == decoded["gt.png"].shape == (9, 12, 3)
    assert verify(str(tmp_path / "out")) == []


@pytest.mark.parametrize("gone", ["lq/a.jpg", "gt/deep/er/c.webp"])
def test_a_picture_without_partner_is_named_or_left_out(tree: Path, tmp_path: Path, gone: str) -> None:
    (tree / gone).unlink()
    left = next(name for name in NAMES if name != gone and Path(name).stem == Path(gone).stem)
    with pytest.raises(UserError, match=f"{left}: there is no picture of this name in {gone[:2]}/"):
        make_shards(str(tree), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    manifest = make_shards(str(tree), str(tmp_path / "out"), skip_missing=True)
    assert (manifest.rows, manifest.skipped) == (3, 1)


def test_a_subfolder_without_partner_is_no_exception(tree: Path, tmp_path: Path) -> None:
    (tree / "gt" / "only").mkdir()
    (tree / "gt" / "only" / "x.png").write_bytes(picture("x.png"))
    with pytest.raises(UserError, match=r"gt/only/x\.png: there is no picture of this name in lq/"):
        make_shards(str(tree), str(tmp_path / "out"))


def test_two_pictures_for_one_place_are_not_chosen_between(tree: Path, tmp_path: Path) -> None:
    (tree / "gt" / "b.jpg").write_bytes(picture("gt/b.jpg"))
    for skip in (False, True):
        with pytest.raises(UserError, match=r"gt holds both b\.jpg and b\.png"):
            make_shards(str(tree), str(tmp_path / "out"), skip_missing=skip)


def test_what_is_no_picture_does_not_count(tree: Path, tmp_path: Path) -> None:
    (tree / "notes.txt").write_text("made on Tuesday")
    (tree / "lq" / "a.txt").write_text("a caption that nobody asked for")
    (tree / "gt" / ".thumbnail.png").write_bytes(picture(".thumbnail.png"))
    assert make_shards(str(tree), str(tmp_path / "out")).rows == 4


def test_no_pairs_at_all(tmp_path: Path) -> None:
    for role in ("lq", "gt"):
        (tmp_path / "set" / role).mkdir(parents=True)
    with pytest.raises(UserError, match="holds no pictures"):
        make_shards(str(tmp_path / "set"), str(tmp_path / "out"))


def test_pairs_from_s3_to_s3_are_the_same_bytes(tree: Path, tmp_path: Path, s3: str) -> None:
    for name in NAMES:
        storage.put_file(str(tree / name), f"{s3}/set/{name}")
    there = make_shards(f"{s3}/set", f"{s3}/out", rows_per_shard=3)
    here = make_shards(str(tree), str(tmp_path / "out"), rows_per_shard=3)
    assert there.shards == here.shards


def test_the_command(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "gt" / "b.png").unlink()
    command = ["shards", "make", str(tree), str(tmp_path / "out"), "--rows-per-shard", "2"]
    assert main(command) == 2
    assert "lq/b.png: there is no picture of this name in gt/. Mend the row" in capsys.readouterr().err
    assert main([*command, "--skip-missing"]) == 0
    assert capsys.readouterr().out.startswith("3 rows in 2 shards (")
