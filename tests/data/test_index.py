"""The index of row offsets: made once, checked against its shards, small to carry, and right about every byte."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumiray import s3 as s3_client
from lumiray import storage
from lumiray.data import catalog
from lumiray.data.describe import describe
from lumiray.data.index import ShardSet
from lumiray.data.listing import expand
from lumiray.data.verify import verify
from lumiray.errors import UserError
from lumiray.system import BadRow, Row

COUNTS = [10, 1, 0, 7, 25]
ShardsIn = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LUMIRAY_CACHE", str(folder))
    return folder


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "set") if request.param == "local" else request.getfixturevalue("s3") + "/set"


def texts(rows: list[Row | BadRow]) -> list[str]:
    return [row.parts["txt"].decode() if isinstance(row, Row) else "bad" for row in rows]


class Counting:
    """A `scan_map` that remembers which shards it was called for."""

    def __init__(self) -> None:
        self.scanned: list[str] = []

    def __call__(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        listed = list(items)
        self.scanned += [storage.base_name(each.url) for each in listed]
        return [function(each) for each in reversed(listed)]  # in any order


def test_rows_are_numbered_through_and_read_in_any_order(folder: str, shards_in: ShardsIn) -> None:
    shards = ShardSet.open(shards_in(folder, COUNTS))
    assert shards.rows_per_shard.tolist() == COUNTS and shards.num_rows == 43 and len(shards) == 5
    everything = shards.read(np.arange(43))
    assert texts(everything) == [f"row {n}" for n in range(43)]
    assert [row.identity for row in everything if isinstance(row, Row)] == list(range(43))
    asked = np.random.default_rng(0).permutation(43)[:20]
    assert texts(shards.read(asked)) == [f"row {n}" for n in asked]
    assert texts(shards.read(np.array([5, 42, 5, 5, 0]))) == ["row 5", "row 42", "row 5", "row 5", "row 0"]
    assert shards.read(np.array([], dtype=np.int64)) == []
    row = everything[12]
    assert isinstance(row, Row) and row.key == "003-00012" and row.parts["bin"][:4] == (12).to_bytes(4, "big")


def test_ordinals_are_located(tmp_path: Path, shards_in: ShardsIn) -> None:
    shards = ShardSet.open(shards_in(str(tmp_path), COUNTS))
    numbers, rows = shards.locate(np.array([[0, 9, 10], [11, 17, 42]]))
    assert numbers.tolist() == [[0, 0, 1], [3, 3, 4]] and rows.tolist() == [[0, 9, 0], [0, 6, 24]]
    for wrong in (-1, 43):
        with pytest.raises(ValueError, match=r"\[0, 43\)"):
            shards.locate(np.array([wrong]))


def test_neighbours_are_fetched_with_one_request(s3: str, shards_in: ShardsIn, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = ShardSet.open(shards_in(s3 + "/set", [40, 40], size=20_000))
    shards.read(np.array([0, 79]))  # offsets are there now
    calls: list[str] = []
    s3_client.client("s3://x").s3.meta.events.register("before-call.s3", lambda model, **_: calls.append(model.name))
    assert texts(shards.read(np.array([3, 4, 5, 6, 30, 50, 51, 52]))) == [
        f"row {n}" for n in (3, 4, 5, 6, 30, 50, 51, 52)
    ]
    assert calls == ["GetObject"] * 3


def test_an_index_is_made_once_and_new_shards_are_added(folder: str, shards_in: ShardsIn) -> None:
    urls = shards_in(folder, COUNTS)
    first, second, third = Counting(), Counting(), Counting()
    one = ShardSet.open(urls[:3], scan_map=first)
    two = ShardSet.open(urls, scan_map=second)
    three = ShardSet.open(expand(folder), scan_map=third, digest=two.digest)
    assert first.scanned == ["00000.tar", "00001.tar", "00002.tar"]
    assert second.scanned == ["00003.tar", "00004.tar"] and third.scanned == []
    assert one.num_rows == 11 and two.num_rows == three.num_rows == 43
    names = storage.list_names(storage.join(folder, catalog.FOLDER))
    assert names == [*(f"0000{n}.tar.parquet" for n in range(5)), "summary.parquet"]


def test_an_interrupted_index_is_gone_on_with(tmp_path: Path, shards_in: ShardsIn) -> None:
    urls = shards_in(str(tmp_path), COUNTS)

    def breaks(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        for number, item in enumerate(items):
            if number == 3:
                raise KeyboardInterrupt
            yield function(item)

    with pytest.raises(KeyboardInterrupt):
        ShardSet.open(urls, scan_map=breaks)
    kept = tmp_path / catalog.FOLDER / "00001.tar.parquet"
    before = kept.stat().st_mtime_ns
    assert ShardSet.open(urls).num_rows == 43
    assert kept.stat().st_mtime_ns == before


def test_a_changed_shard_is_refused_by_name(folder: str, shards_in: ShardsIn) -> None:
    urls = shards_in(folder, COUNTS)
    ShardSet.open(urls)
    other = storage.read_bytes(urls[3]).replace(b"row 12", b"ROW 12")  # of equal size
    storage.write_atomically(urls[3], other)
    with pytest.raises(UserError, match=r"00003\.tar has changed since it was indexed.*remove .*lumiray-index"):
        ShardSet.open(urls)
    storage.remove_tree(storage.join(folder, catalog.FOLDER))
    assert "ROW 12" in texts(ShardSet.open(urls).read(np.arange(43)))


def test_an_index_in_the_cache_is_made_again_unless_a_run_goes_on(
    tmp_path: Path, cache: Path, shards_in: ShardsIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = shards_in(str(tmp_path / "set"), COUNTS)
    whole_file = storage.whole_file

    def read_only(path: str) -> Any:
        if path.startswith(str(tmp_path / "set")):
            raise PermissionError(path)
        return whole_file(path)

    monkeypatch.setattr(storage, "whole_file", read_only)
    before = ShardSet.open(urls)
    assert not (tmp_path / "set" / catalog.FOLDER).exists() and len(list(cache.rglob("*.parquet"))) == 6
    monkeypatch.setattr(storage, "whole_file", whole_file)
    shards_in(str(tmp_path / "set"), [10, 1, 0, 8, 25])
    with pytest.raises(UserError, match=r"00000\.tar has changed"):
        ShardSet.open(urls, digest=before.digest)
    again = Counting()
    assert ShardSet.open(urls, scan_map=again).num_rows == 44
    assert len(again.scanned) == 5


def test_other_shards_than_a_run_began_with_are_refused(tmp_path: Path, shards_in: ShardsIn) -> None:
    urls = shards_in(str(tmp_path), COUNTS)
    digest = ShardSet.open(urls).digest
    with pytest.raises(UserError, match="not those that the run began with"):
        ShardSet.open(urls[:4], digest=digest)
    with pytest.raises(UserError, match="not those that the run began with"):
        ShardSet.open(urls[::-1], digest=digest)


def test_a_copy_elsewhere_has_the_same_digest_and_names(tmp_path: Path, s3: str, shards_in: ShardsIn) -> None:
    here = [*shards_in(str(tmp_path / "x" / "p"), [3, 4]), *shards_in(str(tmp_path / "x" / "q"), [5])]
    shutil.copytree(tmp_path / "x", tmp_path / "deep" / "down")
    there = [url.replace(f"{tmp_path}/x", f"{tmp_path}/deep/down") for url in here]
    on_s3 = [url.replace(f"{tmp_path}/x", f"{s3}/y") for url in here]
    for source, target in zip(here, on_s3, strict=True):
        storage.put_file(source, target)
    sets = [ShardSet.open(urls) for urls in (here, there, on_s3)]
    assert len({shards.digest for shards in sets}) == 1
    assert {tuple(shards.name_of(n) for n in range(3)) for shards in sets} == {
        ("p/00000.tar", "p/00001.tar", "q/00000.tar")
    }
    assert [sets[2].url_of(n) for n in range(3)] == on_s3


def test_an_index_folder_of_ones_own(tmp_path: Path, shards_in: ShardsIn) -> None:
    urls = [*shards_in(str(tmp_path / "a"), [2]), *shards_in(str(tmp_path / "b"), [3])]
    shards = ShardSet.open(urls, index_folder=str(tmp_path / "index"))
    assert texts(shards.read(np.arange(5))) == ["row 0", "row 1", "row 0", "row 1", "row 2"]
    assert not (tmp_path / "a" / catalog.FOLDER).exists() and len(list((tmp_path / "index").iterdir())) == 2


def test_it_is_small_when_pickled_and_works_in_another_process(tmp_path: Path, shards_in: ShardsIn) -> None:
    shards = ShardSet.open(shards_in(str(tmp_path), [300, 200]))
    shards.read(np.arange(500))
    data = pickle.dumps(shards)
    assert len(data) < 2500
    code = (
        "import pickle, sys, numpy as np; s = pickle.load(sys.stdin.buffer); "
        "print([r.parts['txt'].decode() for r in s.read(np.array([499, 0, 300]))], s.num_rows)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().strip() == "['row 499', 'row 0', 'row 300'] 500"


def test_a_worker_that_cannot_reach_the_index_scans_for_itself(
    tmp_path: Path, cache: Path, shards_in: ShardsIn
) -> None:
    shards = ShardSet.open(shards_in(str(tmp_path), COUNTS))
    shutil.rmtree(tmp_path / catalog.FOLDER)
    assert texts(shards.read(np.array([42, 3]))) == ["row 42", "row 3"]
    assert len(list(cache.rglob("*.parquet"))) == 2


def test_offsets_in_memory_are_bounded(tmp_path: Path, shards_in: ShardsIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lumiray.data.index._OFFSETS_BYTES", 1000)
    shards = ShardSet.open(shards_in(str(tmp_path), [30] * 8))  # 480 bytes of offsets each
    for _ in range(2):
        assert texts(shards.read(np.arange(0, 240, 7))) == [f"row {n}" for n in range(0, 240, 7)]
        assert len(shards._offsets) <= 2


def test_a_shard_replaced_under_way_stops_the_run_by_name(tmp_path: Path, shards_in: ShardsIn) -> None:
    urls = shards_in(str(tmp_path), [20, 20])
    shards = ShardSet.open(urls)
    shards.read(np.array([25]))
    data = bytearray(Path(urls[1]).read_bytes())
    Path(urls[1]).write_bytes(data[:512] + data)
    with pytest.raises(UserError, match=r"00001\.tar was changed while the run was reading it"):
        shards.read(np.array([25]))
    Path(urls[1]).write_bytes(data[:4096])
    with pytest.raises(UserError, match=r"00001\.tar ends too early"):
        shards.read(np.array([35]))
    os.unlink(urls[1])
    with pytest.raises(UserError, match=r"00001\.tar: it is not there"):
        shards.read(np.array([25]))


def test_a_row_of_a_gigabyte_is_bad_and_not_read(
    tmp_path: Path, shards_in: ShardsIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = ShardSet.open(shards_in(str(tmp_path), [90], size=300))
    sizes = shards.row_sizes(0)
    limit = int((sizes.min() + sizes.max()) // 2)
    monkeypatch.setattr("lumiray.data.index.MAX_ROW_BYTES", limit)
    rows = shards.read(np.arange(90))
    bad = [n for n, row in enumerate(rows) if isinstance(row, BadRow)]
    assert bad == np.flatnonzero(sizes > limit).tolist() and 0 < len(bad) < 90
    assert all(text in ("bad", f"row {n}") for n, text in enumerate(texts(rows)))


def sparse_shard(path: Path, size: int) -> None:
    """Three rows, a picture of so many bytes in the second: a hole in the file, so that nothing large is written."""
    with path.open("wb") as file:
        for key, length in (("0", 2), ("1", size), ("2", 2)):
            for part, count in (("jpg", length), ("txt", 2)):
                info = tarfile.TarInfo(f"{key}.{part}")
                info.size = count
                file.write(info.tobuf(tarfile.GNU_FORMAT))
                file.write(b"ok" if count == 2 else b"")
                file.seek(-(-count // 512) * 512 - (count if count == 2 else 0), os.SEEK_CUR)
        file.truncate(file.tell() + 1024)


@pytest.mark.parametrize("size", [3 << 30, 10 << 30])  # eight gigabytes are the most that a header's octal digits say
def test_a_member_of_gigabytes_is_a_bad_row_and_is_never_in_memory(tmp_path: Path, size: int) -> None:
    sparse_shard(tmp_path / "a.tar", size)
    if os.stat(tmp_path / "a.tar").st_blocks * 512 > 1 << 20:
        pytest.skip("the disk keeps no holes")
    tracemalloc.start()
    for whole in (False, True):
        shards = ShardSet.open(expand(str(tmp_path)), whole=whole)
        rows = shards.read(np.arange(3))
        assert texts(rows) == ["ok", "bad", "ok"] and f"{size + 1536} bytes long" in str(rows[1])
    assert any(f"row 1 has {size + 1536} bytes" in problem for problem in verify(str(tmp_path)))
    assert "cannot be used   1 of them: the row is" in str(describe(str(tmp_path)))
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def test_missing_and_broken_shards_are_named(tmp_path: Path, shards_in: ShardsIn) -> None:
    urls = shards_in(str(tmp_path), COUNTS)
    with pytest.raises(UserError, match="no shards to open"):
        ShardSet.open([])
    with pytest.raises(UserError, match=r"1 shards are not there any more, such as .*x\.tar"):
        ShardSet.open([*urls, str(tmp_path / "x.tar")])
    Path(urls[4]).write_bytes(Path(urls[4]).read_bytes()[:3000])
    with pytest.raises(UserError, match=r"00004\.tar cannot be read past byte"):
        ShardSet.open(urls)
