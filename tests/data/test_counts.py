"""How many rows shards have, told by what lies beside them: nothing is opened, and nothing wrong is believed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lumiray import storage
from lumiray.data import catalog, fetch
from lumiray.data.index import ShardSet
from lumiray.data.listing import expand
from lumiray.data.write import write_shards
from lumiray.errors import UserError
from lumiray.system import BadRow, Row

COUNTS = [10, 1, 0, 7, 25]
NAMES = [f"{number:05d}" for number in range(5)]
ShardsIn = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUMIRAY_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Base names of the shards that were opened, however that is done."""
    found: list[str] = []
    window_of, read_ranges = fetch.window_of, storage.read_ranges

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(url: str, *rest: Any) -> Any:
            found.append(storage.base_name(url))
            return function(url, *rest)

        return call

    monkeypatch.setattr("lumiray.data.tar.window_of", watched(window_of))
    monkeypatch.setattr(storage, "read_ranges", watched(read_ranges))
    return found


def put(folder: Path, told: dict[str, Any]) -> None:
    for name, value in told.items():
        (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))


def put_table(folder: Path, name: str, status: list[str | None]) -> None:
    keys = [f"{place:09d}" for place in range(len(status))]
    pq.write_table(pa.table({"key": keys, "status": pa.array(status, pa.string())}), folder / f"{name}.parquet")


def status_of(rows: int) -> list[str | None]:
    return [*["success", "failed_to_download"] * rows, "failed_to_resize", None]


def no_scan(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
    listed = list(items)
    assert not any(item.url.endswith(".tar") for item in listed)
    return map(function, listed)


@pytest.mark.parametrize("teller", ["sizes", "stats", "parquet", "manifest", "index", "each another"])
def test_no_shard_is_opened_before_its_rows_are_read(
    tmp_path: Path, shards_in: ShardsIn, opened: list[str], teller: str
) -> None:
    folder = tmp_path / "set"
    urls = shards_in(str(folder), COUNTS)
    counts = dict(zip(NAMES, COUNTS, strict=True))
    if teller == "sizes":
        put(folder, {"sizes.json": {f"{name}.tar": rows for name, rows in counts.items()} | {"another.tar": 3}})
    elif teller == "stats":
        put(folder, {f"{name}_stats.json": {"count": 40, "successes": rows} for name, rows in counts.items()})
    elif teller == "parquet":
        for name, rows in counts.items():
            put_table(folder, name, status_of(rows))
    elif teller == "index":
        ShardSet.open(urls)
    elif teller == "manifest":
        rows = [(row.key, row.parts) for row in ShardSet.open(urls).read(np.arange(43)) if isinstance(row, Row)]
        shutil.rmtree(folder)
        write_shards(rows, str(folder), rows_per_shard=10)
        shutil.rmtree(folder / catalog.FOLDER)
        (folder / "sizes.json").write_text("{}")
        urls = expand(str(folder))
    else:
        put(folder, {"sizes.json": {"00000.tar": 10, "00002.tar": 0}, "00001_stats.json": {"successes": 1}})
        put(folder, {"00003_stats.json": {"count": 7}})  # of an older version, without what is needed
        put_table(folder, "00003", status_of(7))
        put_table(folder, "00004", status_of(25))
    opened.clear()
    before = sorted(path.name for path in folder.iterdir())
    shards = ShardSet.open(urls, scan_map=no_scan, whole=True)
    assert shards.num_rows == 43 and opened == []
    assert shards.rows_per_shard.tolist() == ([10, 10, 10, 10, 3] if teller == "manifest" else COUNTS)
    assert sorted(path.name for path in folder.iterdir()) == before
    first = shards.read(np.array([0]))
    assert isinstance(first[0], Row) and set(opened) == {"00000.tar"}
    texts = [row.parts["txt"].decode() for row in shards.read(np.arange(43)) if not isinstance(row, BadRow)]
    assert texts == [f"row {number}" for number in range(43)]


def test_the_digest_is_the_same_whatever_told_the_counts(tmp_path: Path, shards_in: ShardsIn) -> None:
    urls = shards_in(str(tmp_path), COUNTS)
    put(tmp_path, {"sizes.json": {f"{name}.tar": rows for name, rows in zip(NAMES, COUNTS, strict=True)}})
    told = ShardSet.open(urls, whole=True).digest
    indexed = ShardSet.open(urls).digest
    assert ShardSet.open(urls, whole=True, digest=told).digest == told != indexed


def test_shards_of_which_nothing_is_told_are_counted_and_no_others(
    tmp_path: Path, shards_in: ShardsIn, opened: list[str]
) -> None:
    urls = shards_in(str(tmp_path), COUNTS)
    put(tmp_path, {"sizes.json": {"00000.tar": 10, "00003.tar": 7}})
    put_table(tmp_path, "00004", [])
    pq.write_table(pa.table({"url": ["x"]}), tmp_path / "00001.parquet")  # of another making
    shards = ShardSet.open(urls, whole=True)
    # that of 25 rows, too: a table that has none of them is not of this shard
    assert set(opened) == {"00001.tar", "00002.tar", "00004.tar"}
    assert shards.rows_per_shard.tolist() == COUNTS


def test_a_shard_said_to_be_empty_that_is_not_is_counted(tmp_path: Path, shards_in: ShardsIn) -> None:
    urls = shards_in(str(tmp_path), [30, 0])
    put(tmp_path, {"sizes.json": {"00000.tar": 0, "00001.tar": 0}})
    assert ShardSet.open(urls, whole=True).rows_per_shard.tolist() == [30, 0]


@pytest.mark.parametrize("told", [9, 11])
@pytest.mark.parametrize(
    ("name", "value"), [("sizes.json", {"00000.tar": 0}), ("00000_stats.json", {"successes": 0}), ("00000.parquet", 0)]
)
def test_a_shard_with_other_rows_than_told_stops_by_name_with_the_mend(
    tmp_path: Path, shards_in: ShardsIn, told: int, name: str, value: Any
) -> None:
    urls = shards_in(str(tmp_path), [10])
    if isinstance(value, dict):
        put(tmp_path, {name: dict.fromkeys(value, told)})
    else:
        put_table(tmp_path, "00000", status_of(told))
    shards = ShardSet.open(urls, whole=True)
    with pytest.raises(UserError) as stopped:
        shards.read(np.array([3]))
    message = str(stopped.value)
    assert f"Shard {urls[0]} has 10 rows, and {name} beside it says {told}" in message
    assert f"Correct {name}" in message and "lumiray shards info" in message
    ShardSet.open(urls)  # as `lumiray shards info` does
    assert len(ShardSet.open(urls, whole=True).read(np.arange(10))) == 10


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("sizes.json", "{", "sizes.json is damaged"),
        ("sizes.json", "[1]", "sizes.json is damaged"),
        ("sizes.json", '{"00000.tar": "10"}', "sizes.json says '10' where the number of rows"),
        ("sizes.json", '{"00000.tar": -1}', "sizes.json says -1 where"),
        ("sizes.json", '{"00000.tar": true}', "sizes.json says True where"),
        ("sizes.json", '{"00000.tar": 1e400}', "sizes.json says inf where"),
        ("00000_stats.json", "", "00000_stats.json is damaged"),
        ("00000_stats.json", '{"successes": 1.5}', "00000_stats.json says 1.5 where"),
        ("00000.parquet", "PAR1", "00000.parquet is no Parquet file"),
        ("manifest.json", "{", "manifest.json is damaged"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, shards_in: ShardsIn, name: str, text: str, words: str) -> None:
    urls = shards_in(str(tmp_path), [10])
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words.replace(".", r"\.")):
        ShardSet.open(urls, whole=True)


def test_a_shard_of_another_size_than_the_manifest_says_is_named(tmp_path: Path) -> None:
    write_shards([("a", {"txt": b"x" * 5000}), ("b", {"txt": b"y"})], str(tmp_path), rows_per_shard=1)
    shutil.rmtree(tmp_path / catalog.FOLDER)
    (tmp_path / "00000.tar").write_bytes((tmp_path / "00000.tar").read_bytes()[:4096])
    with pytest.raises(UserError, match=r"00000\.tar has 4096 bytes, and manifest\.json beside it says \d+"):
        ShardSet.open(expand(str(tmp_path)), whole=True)


def test_a_shard_that_has_changed_since_it_was_indexed_is_refused(tmp_path: Path, shards_in: ShardsIn) -> None:
    urls = shards_in(str(tmp_path), [10, 5])
    ShardSet.open(urls)
    shards_in(str(tmp_path), [11, 5])
    with pytest.raises(UserError, match=r"00000\.tar has changed since it was indexed"):
        ShardSet.open(urls, whole=True)


def test_counts_lie_beside_shards_on_s3_as_well(s3: str, shards_in: ShardsIn) -> None:
    urls = shards_in(s3 + "/set", COUNTS)
    for name, rows in zip(NAMES, COUNTS, strict=True):
        storage.write_atomically(f"{s3}/set/{name}_stats.json", json.dumps({"successes": rows}).encode())
    assert ShardSet.open(urls, scan_map=no_scan, whole=True).rows_per_shard.tolist() == COUNTS
