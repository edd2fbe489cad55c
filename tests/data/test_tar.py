"""Shards from anyone: every form of header, WebDataset's rule for rows, and archives made to harm."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset

from lumiray.data.index import ShardSet
from lumiray.data.tar import BadShard, read_row, scan_shard, split_name
from lumiray.data.verify import verify
from lumiray.system import BadRow, Row

Members = list[tuple[str, bytes]]


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


def archive(path: Path, members: Members, form: int = tarfile.USTAR_FORMAT) -> str:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            tar.addfile(member(name, len(data)), io.BytesIO(data))
    return str(path)


def rows_of(url: str) -> list[Row | BadRow]:
    scan = scan_shard(url)
    data = Path(url).read_bytes()
    rows: list[Row | BadRow] = []
    for number, (start, length) in enumerate(zip(scan.row_offsets, scan.row_lengths, strict=True)):
        rows.append(read_row(data[start : start + length], number))
    return rows


def parts_of(url: str) -> list[tuple[str, dict[str, bytes]]]:
    return [(row.key, dict(row.parts)) for row in rows_of(url) if isinstance(row, Row)]


def by_webdataset(url: str) -> list[tuple[str, dict[str, bytes]]]:
    """What webdataset's own reader makes of a shard."""
    pipeline = webdataset.DataPipeline(webdataset.SimpleShardList([url]), webdataset.tarfile_to_samples())
    return [(sample["__key__"], {k: v for k, v in sample.items() if not k.startswith("__")}) for sample in pipeline]


PLAIN: Members = [
    ("a/0001.jpg", b"J1"),
    ("a/0001.txt", b"one"),
    ("a/0002.JPG", b"J2" * 400),
    ("a/0002.json", b"{}"),
    ("b/0001.lq.png", b"L"),
    ("b/0001.gt.png", b"G"),
    ("no_extension", b"x"),
    (".hidden", b"x"),
    ("__meta__/x.txt", b"x"),
    ("empty.txt", b""),
    ("./here.txt", b"h"),
]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_rows_are_those_of_webdataset(tmp_path: Path, form: int) -> None:
    long_name = "folder/" * 30 + "k" * 60
    members = [
        *PLAIN,
        (f"{long_name}.jpg", b"long"),
        (f"{long_name}.txt", b"caption"),
        ("\u00fc\u732b.txt", b"u"),
    ]
    if form == tarfile.USTAR_FORMAT:  # it cannot hold longer names
        members = [*PLAIN, ("d" * 100 + "/" + "e" * 90 + ".jpg", b"long"), ("\u00fc.txt", b"u")]
    url = archive(tmp_path / "a.tar", members, form)
    assert parts_of(url) == by_webdataset(url)
    assert parts_of(url)[1] == ("a/0002", {"jpg": b"J2" * 400, "json": b"{}"})
    assert parts_of(url)[2] == ("b/0001", {"lq.png": b"L", "gt.png": b"G"})
    assert scan_shard(url).extensions["jpg"] == 3 and scan_shard(url).ended


def test_what_webdataset_writes_is_read(tmp_path: Path) -> None:
    with webdataset.ShardWriter(str(tmp_path / "%05d.tar"), maxcount=3, verbose=False) as sink:
        for number in range(7):
            sink.write({"__key__": f"k{number}", "jpg": os.urandom(700), "cls": number, "json": {"n": number}})
    assert sorted(os.listdir(tmp_path)) == ["00000.tar", "00001.tar", "00002.tar"]
    for name in os.listdir(tmp_path):
        assert parts_of(str(tmp_path / name)) == by_webdataset(str(tmp_path / name))


def test_single_rows_are_read_from_their_range_alone(tmp_path: Path) -> None:
    members = [(f"{'long' * 40}{n:03d}.{part}", os.urandom(n * 37)) for n in range(40) for part in ("jpg", "txt")]
    url = archive(tmp_path / "a.tar", members, tarfile.PAX_FORMAT)
    scan = scan_shard(url)
    assert len(scan) == 40 and (scan.row_offsets % 512 == 0).all() and (np.diff(scan.row_offsets) > 0).all()
    rows = rows_of(url)
    assert [row.parts["jpg"] for row in rows if isinstance(row, Row)] == [data for name, data in members[::2]]


def test_links_folders_devices_and_sparse_files_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member("folder", kind=tarfile.DIRTYPE))
        tar.addfile(member("1.jpg", 2), io.BytesIO(b"ok"))
        tar.addfile(member("1.txt", kind=tarfile.SYMTYPE, link="/etc/passwd"))
        tar.addfile(member("1.json", kind=tarfile.LNKTYPE, link="../../secret"))
        tar.addfile(member("1.cls", kind=tarfile.FIFOTYPE))
        tar.addfile(member("1.npy", kind=tarfile.CHRTYPE))
        sparse = member("1.bin", 512)
        sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
        tar.addfile(sparse, io.BytesIO(bytes(512)))
        tar.addfile(member("1.txt", 4), io.BytesIO(b"text"))
    assert parts_of(str(tmp_path / "a.tar")) == [("1", {"jpg": b"ok", "txt": b"text"})]


@pytest.mark.parametrize("form", ["gnu", "pax-0.0", "pax-0.1", "pax-1.0"])
@pytest.mark.parametrize("pieces", [1, 3, 60])  # more than four need a map of their own behind the header
def test_sparse_files_of_gnu_tar_are_passed_over(tmp_path: Path, form: str, pieces: int) -> None:
    (tmp_path / "1.jpg").write_bytes(b"ok")
    (tmp_path / "2.txt").write_bytes(b"text")
    with (tmp_path / "1.bin").open("wb") as file:
        for piece in range(pieces):
            file.seek(piece << 20)
            file.write(b"x" * 5000)
        file.truncate(pieces << 20)
    kind, _, version = form.partition("-")
    options = [f"--format={kind}", *([f"--sparse-version={version}"] if version else [])]
    subprocess.run(["tar", "-S", *options, "-cf", "a.tar", "1.jpg", "1.bin", "2.txt"], cwd=tmp_path, check=True)
    assert (tmp_path / "a.tar").stat().st_size < 1 << 20  # the holes are not in it
    assert parts_of(str(tmp_path / "a.tar")) == [("1", {"jpg": b"ok"}), ("2", {"txt": b"text"})]


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd.txt", "../up.txt", "a/../../up.txt", "a/..", "/abs.jpg", "x/../y.jpg"],
)
def test_names_that_would_leave_a_folder_are_no_rows(tmp_path: Path, name: str) -> None:
    assert split_name(name) is None
    url = archive(tmp_path / "a.tar", [("1.jpg", b"a"), (name, b"evil"), ("1.txt", b"b")])
    assert parts_of(url) == [("1", {"jpg": b"a", "txt": b"b"})]


def test_a_part_that_comes_twice_begins_another_row_and_is_reported(tmp_path: Path) -> None:
    url = archive(
        tmp_path / "a.tar",
        [("k.jpg", b"1"), ("k.txt", b"1"), ("k.jpg", b"2"), ("k.TXT", b"2"), ("j.txt", b"3")],
    )
    assert parts_of(url) == [
        ("k", {"jpg": b"1", "txt": b"1"}),
        ("k", {"jpg": b"2", "txt": b"2"}),
        ("j", {"txt": b"3"}),
    ]
    assert scan_shard(url).duplicates == ("k",)


def test_names_that_are_not_utf_8_are_rows_like_others(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        for name in ("\u00fc.jpg", "\u00fc.txt", "\u00e4.jpg"):
            tar.addfile(member(name, 1), io.BytesIO(b"x"))
    rows = parts_of(str(tmp_path / "a.tar"))
    assert [sorted(parts) for _, parts in rows] == [["jpg", "txt"], ["jpg"]]
    shards = ShardSet.open([str(tmp_path / "a.tar")])
    assert shards.keys(0) == shards.keys(0) == [key for key, _ in rows] == ["\udcfc", "\udce4"]
    assert all(problem.isprintable() for problem in verify(str(tmp_path / "a.tar")))  # a terminal can show them


def test_keys_that_differ_in_case_are_different_rows(tmp_path: Path) -> None:
    url = archive(tmp_path / "a.tar", [("A.jpg", b"1"), ("a.txt", b"2")])
    assert [key for key, _ in parts_of(url)] == ["A", "a"]


def test_a_truncated_shard_is_named_with_its_offset(tmp_path: Path) -> None:
    url = archive(tmp_path / "a.tar", [(f"{n}.jpg", os.urandom(2000)) for n in range(5)])
    whole = Path(url).read_bytes()
    for length in (2560 * 2 + 100, 2560 * 3 + 512 + 1000, 700):
        Path(url).write_bytes(whole[:length])
        with pytest.raises(BadShard, match=rf"a\.tar cannot be read past byte {length // 2560 * 2560}"):
            scan_shard(url)


def test_an_archive_without_its_end_is_read_and_noted(tmp_path: Path) -> None:
    url = archive(tmp_path / "a.tar", [("1.jpg", bytes(512)), ("2.jpg", bytes(512))])
    Path(url).write_bytes(Path(url).read_bytes()[:2048])
    assert len(scan_shard(url)) == 2 and not scan_shard(url).ended
    Path(url).write_bytes(b"")
    assert len(scan_shard(url)) == 0


@pytest.mark.parametrize("data", [b"\x1f\x8b" + bytes(600), b"BZh9" + bytes(600), b"\xfd7zXZ\0" + bytes(600)])
def test_compressed_shards_are_refused_with_the_mend(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(BadShard, match=r"compressed.*unpack"):
        scan_shard(str(tmp_path / "a.tar"))


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    for data in (b"<html>" * 200, os.urandom(2048), b"\xff" * 1024):
        (tmp_path / "a.tar").write_bytes(data)
        with pytest.raises(BadShard, match="no tar header"):
            scan_shard(str(tmp_path / "a.tar"))


def _with_checksum(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_headers_with_lies_are_refused(tmp_path: Path) -> None:
    url = archive(tmp_path / "a.tar", [("1.jpg", b"x")])
    good = bytearray(Path(url).read_bytes())
    endless = bytearray(good[:512])
    endless[124:136] = b"\x80" + b"\xff" * 11  # 2^88 bytes, in base 256
    minus = bytearray(good[:512])
    minus[124:136] = b"\xff" * 12  # -1
    for block in (endless, minus):
        Path(url).write_bytes(_with_checksum(block) + bytes(good[512:]))
        with pytest.raises(BadShard):
            scan_shard(url)


def test_sizes_in_extended_headers_count(tmp_path: Path) -> None:
    """pax may hold the true size, and the header a zero."""
    data = os.urandom(1500)
    record = b"13 size=1500\n"
    extended = member("x", len(record), kind=tarfile.XHDTYPE).tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0")
    body = member("1.jpg", 0).tobuf(tarfile.USTAR_FORMAT) + data.ljust(1536, b"\0")
    (tmp_path / "a.tar").write_bytes(extended + body + bytes(1024))
    assert parts_of(str(tmp_path / "a.tar")) == [("1", {"jpg": data})]


@pytest.mark.parametrize("record", [b"99 path=a\n", b"0 path=a\n", b"x path=a\n", b"10 pathaaa\n", b"9 path=a"])
def test_broken_extended_headers_are_refused(tmp_path: Path, record: bytes) -> None:
    extended = member("x", len(record), kind=tarfile.XHDTYPE).tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0")
    (tmp_path / "a.tar").write_bytes(extended + member("1.jpg").tobuf(tarfile.USTAR_FORMAT))
    with pytest.raises(BadShard, match="extended header"):
        scan_shard(str(tmp_path / "a.tar"))


def test_bytes_that_are_not_one_row_are_bad_rows(tmp_path: Path) -> None:
    url = archive(tmp_path / "a.tar", [("1.jpg", bytes(600)), ("2.jpg", bytes(600))])
    data = Path(url).read_bytes()
    for piece in (data[:3072], data[512:1536], b"", bytes(1024), data[:1000]):
        with pytest.raises(BadRow):
            read_row(piece, 0)


def test_broken_archives_never_crash_the_reader(tmp_path: Path) -> None:
    url = archive(tmp_path / "a.tar", [*PLAIN, ("n" * 150 + ".jpg", b"x")], tarfile.PAX_FORMAT)
    good = Path(url).read_bytes()
    draw = np.random.default_rng(0)
    survived = 0
    for _ in range(300):
        data = bytearray(good)
        for place in draw.integers(0, len(good), draw.integers(1, 6)):
            data[place] = draw.integers(256)
        Path(url).write_bytes(data)
        try:
            rows_of(url)
            survived += 1
        except (BadShard, BadRow):
            continue
    assert 0 < survived < 300
