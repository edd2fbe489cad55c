"""`lumiray shards verify`, `info` and the sheet: each fault of a set is found and named."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumiray import storage
from lumiray.data.describe import describe
from lumiray.data.sheet import write_sheet
from lumiray.data.verify import verify
from lumiray.data.write import write_shards
from lumiray.errors import UserError


def picture(number: int, form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (40 + number, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def good(tmp_path: Path) -> Path:
    rows = [(f"k{n}", {"jpg": picture(n), "txt": f"caption {n}".encode()}) for n in range(10)]
    write_shards(rows, str(tmp_path / "set"), rows_per_shard=4)
    return tmp_path / "set"


def foreign(path: Path, members: list[tuple[str, bytes]]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def test_a_good_set_has_no_problems(good: Path, s3: str) -> None:
    assert verify(str(good)) == []
    for name in storage.list_names(str(good)):
        if (good / name).is_file():
            storage.put_file(str(good / name), f"{s3}/set/{name}")
    assert verify(f"{s3}/set") == []


def test_every_fault_of_a_row_is_named(tmp_path: Path) -> None:
    url = foreign(
        tmp_path / "a.tar",
        [
            ("1.jpg", picture(1)),
            ("1.txt", b"\xff\xfe\xfa"),
            ("2.jpg", picture(2)[:300]),
            ("2.txt", b"fine"),
            ("3.txt", b"no picture"),
            ("4.png", picture(4, "PNG")),
            ("5.jpg", b""),
            ("5.txt", b" "),
            ("6.webp", picture(6, "WEBP")),
            ("6.json", b"{broken"),
            ("K.jpg", picture(7)),
            ("K.txt", b"x"),
            ("k.jpg", picture(7)),
            ("k.txt", b"x"),
            ("7.lq.png", picture(7, "PNG")),
            ("7.gt.png", picture(8, "PNG")),
            ("1.jpg", picture(9)),
            ("1.txt", b"again"),
        ],
    )
    problems = "\n".join(verify(url))
    for expected in (
        "key '1' comes more than once",
        "row 0 (key '1'): the text is not UTF-8",
        "row 1 (key '2'): .jpg: the picture cannot be decoded",
        "row 2 (key '3'): there is no picture",
        "row 3 (key '4'): there is no caption",
        "row 4 (key '5'): .jpg is empty",
        "row 4 (key '5'): there is no caption",
        "row 5 (key '6'): the JSON cannot be read",
        "2 keys are 'k' but for case",
    ):
        assert expected in problems, (expected, problems)
    assert len(problems.splitlines()) == 9


def test_damage_after_writing_is_found(good: Path) -> None:
    shard = good / "00001.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 0x10  # inside a picture
    shard.write_bytes(data)
    (good / "00002.tar").rename(good / "00007.tar")
    problems = "\n".join(verify(str(good)))
    assert "00001.tar: its checksum is not that of the manifest" in problems
    assert "00001.tar: has changed since it was indexed" in problems
    assert "00002.tar stands in the manifest and is missing" in problems
    assert "00007.tar: does not stand in the manifest" in problems
    shard.write_bytes(data[: len(data) // 2])
    assert "00001.tar cannot be read past byte" in "\n".join(verify(str(good)))


def test_unclosed_and_empty_archives_are_said(tmp_path: Path) -> None:
    url = foreign(tmp_path / "a.tar", [("1.jpg", picture(1)), ("1.txt", b"x")])
    Path(url).write_bytes(Path(url).read_bytes().rstrip(b"\0").ljust(len(picture(1)) // 512 * 512 + 512 * 4, b"\0"))
    (tmp_path / "b.tar").write_bytes(bytes(1024))
    problems = "\n".join(verify(str(tmp_path)))
    assert "a.tar: the archive is not closed" in problems and "b.tar: there are no rows" in problems


def test_many_problems_are_counted(tmp_path: Path) -> None:
    told = [("told.jpg", picture(1)), ("told.txt", b"the others have no text")]
    url = foreign(tmp_path / "a.tar", [(f"{n}.jpg", picture(1)) for n in range(50)] + told)
    assert len(verify(url)) == 21 and verify(url)[-1].endswith("30 more problems")


def test_info_counts_and_prints(good: Path) -> None:
    report = describe(str(good))
    assert (report.shards, report.rows, report.sample) == (3, 10, 10)
    assert report.bytes == sum(path.stat().st_size for path in good.glob("*.tar"))
    assert report.rows_per_shard == (2, 2, 4, 4, 4) and report.extensions == {"jpg": 10, "txt": 10}
    assert report.picture_heights == (40, 40, 44, 49, 49) and report.picture_widths == (60,) * 5
    assert report.caption_lengths == (9,) * 5 and report.problems == {}
    text = str(report)
    assert "rows             10" in text and ".jpg 100%, .txt 100% (of 10 sampled rows)" in text
    assert report.digest in text


def test_info_says_what_cannot_be_used(tmp_path: Path) -> None:
    url = foreign(tmp_path / "a.tar", [("1.jpg", picture(1)), ("2.txt", b"x"), ("3.jpg", b"nonsense")])
    text = str(describe(url))
    assert "cannot be used   1 of them: there is no picture" in text
    assert "cannot be used   1 of them: not a picture (8 bytes)" in text
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"holds no \.tar"):
        describe(str(tmp_path / "none"))


def test_a_sheet_shows_pictures_and_faults(tmp_path: Path) -> None:
    pixels = np.full((30, 50, 3), (250, 10, 10), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    url = foreign(tmp_path / "a.tar", [("1.png", buffer.getvalue()), ("1.txt", b"red"), ("2.png", b"broken")])
    write_sheet(url, str(tmp_path / "out" / "sheet.png"))
    sheet = np.asarray(Image.open(tmp_path / "out" / "sheet.png"))
    assert (sheet == (250, 10, 10)).all(2).sum() >= 30 * 50  # the picture
    assert (sheet == (255, 0, 0)).all(2).sum() >= 4 * 159  # the frame of the broken one
    assert (sheet < 100).all(2).sum() > 50  # text
