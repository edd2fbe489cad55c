"""Rows that a filter keeps: joined by key with the tables that img2dataset writes, found once, exact for a run."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from lumiray import storage
from lumiray.data import catalog
from lumiray.data.filter import Filter, parse_filter
from lumiray.data.index import ShardSet
from lumiray.data.plan import Plan, PlanSettings, Source
from lumiray.errors import UserError
from lumiray.system import BadRow, Row

TRIED = (60, 45, 1, 80)  # addresses of each shard
WIDE = parse_filter("width >= 256 and similarity > 0.28")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LUMIRAY_CACHE", str(folder))
    return folder


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "set") if request.param == "local" else request.getfixturevalue("s3") + "/set"


@dataclass
class Tried:
    """One address that was tried."""

    key: str
    status: str
    width: int | None
    similarity: float

    @property
    def text(self) -> str:
        return f"row {self.key}"

    @property
    def is_wide(self) -> bool:
        return self.status == "success" and (self.width or 0) >= 256 and self.similarity > 0.28


def tried(shard: int, count: int, seed: int = 0) -> list[Tried]:
    """Addresses of which a third were not got; no two shards are alike."""
    draw = np.random.default_rng((seed, shard))
    found = []
    for number in range(count):
        got = draw.random() > 1 / 3
        width = int(draw.integers(100, 500)) if got else None
        found.append(
            Tried(f"{shard:05d}{number:04d}", "success" if got else "failed_to_download", width, draw.random())
        )
    return found


def write_table(url: str, rows: list[Tried]) -> None:
    """The Parquet file of a shard; like img2dataset's, which also finishes addresses in another order."""
    columns = {
        "url": [f"https://example.org/{row.key}" for row in rows],
        "key": [row.key for row in rows],
        "status": [row.status for row in rows],
        "error_message": [None if row.status == "success" else "404" for row in rows],
        "width": pa.array([row.width for row in rows], pa.int32()),
        "similarity": [row.similarity for row in rows],
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, row_group_size=16)
    storage.write_atomically(url, buffer.getvalue())


def write_set(folder: str, every: list[list[Tried]]) -> list[str]:
    """Shards with their tables, whose rows are in another order."""
    urls = []
    for number, rows in enumerate(every):
        buffer = io.BytesIO()
        with webdataset.TarWriter(buffer) as sink:
            for row in rows:
                if row.status == "success":
                    sink.write({"__key__": row.key, "txt": row.text, "jpg": b"picture" * (number + 9)})
        urls.append(storage.join(folder, f"{number:05d}.tar"))
        storage.write_atomically(urls[-1], buffer.getvalue())
        order = np.random.default_rng(number).permutation(len(rows))
        write_table(storage.join(folder, f"{number:05d}.parquet"), [rows[place] for place in order])
    return urls


EVERY = [tried(shard, count) for shard, count in enumerate(TRIED)]
STORED = [sum(row.status == "success" for row in rows) for rows in EVERY]
EXPECTED = [row.text for rows in EVERY for row in rows if row.is_wide]


def texts(rows: list[Row | BadRow]) -> list[str]:
    return [row.parts["txt"].decode() if isinstance(row, Row) else "bad" for row in rows]


def texts_of(shards: ShardSet) -> list[str]:
    return texts(shards.read(np.arange(shards.num_rows)))


class Counting:
    """A `scan_map` that remembers what was done for which shard."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def __call__(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        listed = list(items)
        self.done += [storage.base_name(each.url) for each in listed]
        return [function(pickle.loads(pickle.dumps(each))) for each in reversed(listed)]  # in any order


def test_only_survivors_are_numbered_and_read(folder: str) -> None:
    shards = ShardSet.open(write_set(folder, EVERY), keep=WIDE)
    assert 0 < len(EXPECTED) < sum(STORED) < sum(TRIED)
    assert shards.num_rows == len(EXPECTED)
    assert shards.num_stored == sum(STORED)
    assert shards.stored_per_shard.tolist() == STORED
    assert shards.rows_per_shard.tolist() == [sum(row.is_wide for row in rows) for rows in EVERY]
    rows = shards.read(np.arange(shards.num_rows))
    assert texts(rows) == EXPECTED
    assert [row.identity for row in rows if isinstance(row, Row)] == list(range(len(EXPECTED)))
    assert shards.survivors is not None
    assert shards.survivors.unlisted == 0


def test_a_row_is_located_where_it_lies_in_its_archive(tmp_path: Path) -> None:
    urls = write_set(str(tmp_path), EVERY)
    everything, some = ShardSet.open(urls), ShardSet.open(urls, keep=WIDE)
    numbers, rows = some.locate(np.arange(some.num_rows).reshape(1, -1))
    assert numbers.shape == rows.shape == (1, some.num_rows)
    assert texts(everything.read(everything.starts[numbers[0]] + rows[0])) == EXPECTED
    one = some.locate(np.array([some.num_rows - 1]))
    assert (one[0][0], one[1][0]) == (numbers[0, -1], rows[0, -1])
    assert some.row_sizes(0).tolist() == everything.row_sizes(0)[rows[numbers == 0]].tolist()


def test_epochs_of_a_plan_are_exactly_the_survivors(folder: str) -> None:
    shards = ShardSet.open(write_set(folder, EVERY), keep=WIDE)
    batch = 8
    plan = Plan((Source("shards", shards.num_rows),), PlanSettings(4, 16), batch, 4, seed=5)
    found: list[str] = []
    for step in range(-(-3 * shards.num_rows // batch)):
        found += texts(shards.read(plan.batch(step).row))
    epochs = [found[n * shards.num_rows : (n + 1) * shards.num_rows] for n in range(3)]
    assert all(sorted(epoch) == sorted(EXPECTED) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_what_a_filter_keeps_is_found_once(folder: str) -> None:
    urls = write_set(folder, EVERY)
    first, second, third, fourth = Counting(), Counting(), Counting(), Counting()
    ShardSet.open(urls[:2], scan_map=first, keep=WIDE)
    one = ShardSet.open(urls, scan_map=second, keep=WIDE)
    again = ShardSet.open(urls, scan_map=third, keep=parse_filter("(width>=256) and similarity > 0.28"))
    other = ShardSet.open(urls, scan_map=fourth, keep=parse_filter("width < 256"))
    assert first.done == ["00000.tar", "00001.tar"] * 2  # offsets and keys, then survivors
    assert second.done == ["00002.tar", "00003.tar"] * 2
    assert third.done == []
    assert fourth.done == [f"0000{number}.tar" for number in range(4)]
    assert one.digest == again.digest != other.digest
    assert texts_of(again) == EXPECTED
    index = storage.join(folder, catalog.FOLDER)
    names = [f"0000{number}.tar" for number in range(4)]
    folders = [f"filter-{keep.digest}" for keep in (WIDE, parse_filter("width < 256"))]
    assert sorted(storage.list_names(index)) == sorted(
        [*(f"{name}{of}.parquet" for name in names for of in ("", ".keys")), *folders, "summary.parquet"]
    )
    assert storage.list_names(storage.join(index, folders[0])) == [
        *(f"{name}.parquet" for name in names),
        "summary.parquet",
    ]


def test_shards_are_read_once_for_all_filters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scanned: list[str] = []
    scan = catalog.scan_shard

    def counted(url: str) -> Any:
        scanned.append(storage.base_name(url))
        return scan(url)

    monkeypatch.setattr(catalog, "scan_shard", counted)
    urls = write_set(str(tmp_path), EVERY)
    ShardSet.open(urls[:3])  # an index without keys, as runs without a filter leave it
    for keep in (WIDE, parse_filter("width < 300"), WIDE):
        ShardSet.open(urls, keep=keep)
    assert sorted(scanned) == sorted([*(f"0000{n}.tar" for n in range(4)), *(f"0000{n}.tar" for n in range(3))])


def test_an_interrupted_search_is_gone_on_with(tmp_path: Path) -> None:
    urls = write_set(str(tmp_path), EVERY)
    ShardSet.open(urls)

    def breaks(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        for number, item in enumerate(items):
            if number == 2:
                raise KeyboardInterrupt
            yield function(item)

    with pytest.raises(KeyboardInterrupt):
        ShardSet.open(urls, scan_map=breaks, keep=WIDE)
    kept = tmp_path / catalog.FOLDER / f"filter-{WIDE.digest}" / "00001.tar.parquet"
    before = kept.stat().st_mtime_ns
    assert texts_of(ShardSet.open(urls, keep=WIDE)) == EXPECTED
    assert kept.stat().st_mtime_ns == before


def test_a_changed_table_is_looked_through_again_and_gives_another_digest(folder: str) -> None:
    urls = write_set(folder, EVERY)
    before = ShardSet.open(urls, keep=WIDE)
    texts_of(before)
    changed = tried(1, TRIED[1], seed=1)
    for new, old in zip(changed, EVERY[1], strict=True):
        new.status, new.key = old.status, old.key
    write_table(storage.join(folder, "00001.parquet"), changed)
    counting = Counting()
    after = ShardSet.open(urls, scan_map=counting, keep=WIDE)
    assert counting.done == ["00001.tar"]
    assert after.digest != before.digest
    assert texts_of(after) == [row.text for rows in (EVERY[0], changed, *EVERY[2:]) for row in rows if row.is_wide]
    with pytest.raises(UserError, match="not those that the run began with"):
        ShardSet.open(urls, keep=WIDE, digest=before.digest)
    assert texts_of(before) == EXPECTED  # a run that is under way has its bitmaps in memory
    with pytest.raises(UserError, match=r"00001\.parquet says now that --data\.filter keeps other rows"):
        texts_of(pickle.loads(pickle.dumps(before)))
    write_table(storage.join(folder, "00001.parquet"), EVERY[1])  # another file of the old content
    assert ShardSet.open(urls, keep=WIDE, digest=before.digest).num_rows == len(EXPECTED)
    assert texts_of(pickle.loads(pickle.dumps(before))) == EXPECTED


def test_a_changed_shard_is_refused_with_a_filter_too(tmp_path: Path) -> None:
    urls = write_set(str(tmp_path), EVERY)
    ShardSet.open(urls, keep=WIDE)
    Path(urls[1]).write_bytes(Path(urls[0]).read_bytes())
    with pytest.raises(UserError, match=r"00001\.tar has changed since it was indexed"):
        ShardSet.open(urls, keep=WIDE)


def test_rows_that_no_table_lists_are_left_out_and_counted(tmp_path: Path) -> None:
    urls = write_set(str(tmp_path), EVERY)
    lost = next(row for row in EVERY[0] if row.is_wide)
    write_table(f"{tmp_path}/00000.parquet", [row for row in EVERY[0] if row is not lost])
    shards = ShardSet.open(urls, keep=WIDE)
    assert texts_of(shards) == [text for text in EXPECTED if text != lost.text]
    assert shards.survivors is not None
    assert shards.survivors.unlisted == 1


def test_a_filter_that_keeps_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = write_set(str(tmp_path), EVERY)
    everything = ShardSet.open(urls)
    same = ShardSet.open(urls, keep=parse_filter("status == 'success'"))
    monkeypatch.setattr("lumiray.data.survivors._read_bitmap", lambda *_: pytest.fail("nothing is left out"))
    assert texts_of(same) == texts_of(everything)
    assert same.locate(np.arange(same.num_rows))[1].tolist() == everything.locate(np.arange(same.num_rows))[1].tolist()
    monkeypatch.undo()
    nothing = ShardSet.open(urls, keep=parse_filter("width > 9999"))
    assert (nothing.num_rows, nothing.num_stored) == (0, sum(STORED))


def test_it_is_small_when_pickled_and_works_in_another_process(tmp_path: Path) -> None:
    every = [tried(shard, 2000) for shard in range(2)]
    shards = ShardSet.open(write_set(str(tmp_path), every), keep=WIDE)
    expected = [row.text for rows in every for row in rows if row.is_wide]
    assert texts_of(shards) == expected
    data = pickle.dumps(shards)
    assert len(data) < 2500
    code = (
        "import pickle, sys, numpy as np; s = pickle.load(sys.stdin.buffer); "
        "print(*[r.parts['txt'].decode() for r in s.read(np.arange(s.num_rows))], sep=',')"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().strip().split(",") == expected


def test_a_worker_that_cannot_reach_the_index_looks_for_itself(tmp_path: Path, cache: Path) -> None:
    shards = ShardSet.open(write_set(str(tmp_path), EVERY), keep=WIDE)
    shutil.rmtree(tmp_path / catalog.FOLDER)
    assert texts_of(shards) == EXPECTED
    assert sum(file.parent.name == f"filter-{WIDE.digest}" for file in cache.rglob("*.parquet")) == len(
        np.flatnonzero((shards.rows_per_shard > 0) & (shards.rows_per_shard < shards.stored_per_shard))
    )


def test_a_set_that_cannot_be_written_has_its_survivors_in_the_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = write_set(str(tmp_path / "set"), EVERY)
    ShardSet.open(urls)  # its owner made the index
    whole_file = storage.whole_file

    def read_only(path: str) -> Any:
        if path.startswith(str(tmp_path / "set")):
            raise PermissionError(path)
        return whole_file(path)

    monkeypatch.setattr(storage, "whole_file", read_only)
    counting = Counting()
    assert texts_of(ShardSet.open(urls, keep=WIDE)) == EXPECTED
    assert texts_of(ShardSet.open(urls, keep=WIDE, scan_map=counting)) == EXPECTED
    assert counting.done == []
    assert len(list(cache.rglob("*.keys.parquet"))) == 4


def test_what_is_in_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lumiray.data.index._OFFSETS_BYTES", 1000)
    shards = ShardSet.open(write_set(str(tmp_path), EVERY * 3), keep=WIDE)
    for _ in range(2):
        assert texts_of(shards) == EXPECTED * 3
        assert sum(rows.nbytes for rows in shards._offsets.values()) <= 1000 or len(shards._offsets) == 1


def rewritten(table: str, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(table)), table)


def doubled(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table.slice(0, 1)])


def with_numbers_for_keys(table: pa.Table) -> pa.Table:
    return table.set_column(1, "key", table["key"].cast(pa.int64()))


@pytest.mark.parametrize(
    ("keep", "change", "words"),
    [
        ("widht > 3", None, r"does not fit .*00001\.parquet: it has no column 'widht'. Did you mean 'width'"),
        ("status > 3", None, r"does not fit .*00001\.parquet: status \(a text\) is compared with 3 \(a number\)"),
        ("width > 3", lambda table: table.drop_columns("key"), r"00001\.parquet has no column 'key' of texts"),
        ("width > 3", lambda table: table.rename_columns({"key": "keys"}), "Did you mean 'keys'"),
        ("width > 3", with_numbers_for_keys, r"00001\.parquet has no column 'key' of texts.* It is int64\."),
        ("width > 3", doubled, r"00001\.parquet has 46 rows and 45 different keys"),
        ("width > 3", lambda table: table.slice(0, 0), r"has no row for any of the \d+ keys of its shard, such as"),
    ],
)
def test_a_table_that_does_not_fit_is_named(
    tmp_path: Path, keep: str, change: Callable[[pa.Table], pa.Table] | None, words: str
) -> None:
    urls = write_set(str(tmp_path), EVERY)
    if change is not None:
        rewritten(f"{tmp_path}/00001.parquet", change)
    with pytest.raises(UserError, match=words):
        ShardSet.open(urls[1:], keep=Filter(keep))


def test_missing_and_broken_tables_are_named(folder: str) -> None:
    urls = write_set(folder, EVERY)
    storage.write_atomically(storage.join(folder, "00002.parquet"), b"no table")
    with pytest.raises(UserError, match=r"00002\.parquet is no Parquet file"):
        ShardSet.open(urls, keep=WIDE)
    storage.remove_tree(storage.join(folder, "00001.parquet"))
    with pytest.raises(UserError, match=r"There is no .*00001\.parquet: --data\.filter reads columns of the Parquet"):
        ShardSet.open(urls, keep=WIDE)
    storage.remove_tree(storage.join(folder, "00003.parquet"))
    with pytest.raises(UserError, match=r"There is no .*00001\.parquet, and 1 others: "):
        ShardSet.open(urls, keep=WIDE)
    assert ShardSet.open(urls).num_rows == sum(STORED)
