"""Rows kept on a disk: read from S3 once, the same bit for bit, whoever writes, dies or damages beside."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import TINY
from tests.data.test_survivors import EVERY, EXPECTED, STORED, WIDE, texts_of, write_set

from lumiray import storage
from lumiray.command import parse
from lumiray.data import catalog, fetch_rows
from lumiray.data.decoder import Decoder
from lumiray.data.entries import TRAIN, Entry
from lumiray.data.index import ShardSet
from lumiray.data.plan import Plan, PlanSettings, Source
from lumiray.data.slice_cache import FOLDER, SliceCache
from lumiray.system import BadRow, Row
from lumiray.train.checks import check_job, independent_of_here
from lumiray.train.launch import make_stream
from lumiray.train.reading import open_here

COUNTS = [40, 33, 0, 1]  # 3 + 3 + 0 + 1 slices
SLICES = 7
ShardsIn = Callable[..., list[str]]
READING = (
    "import sys, pickle, hashlib, os, numpy as np; {before};"
    "shards = pickle.load(sys.stdin.buffer); rows = shards.read(np.arange(shards.num_rows));"
    "print(hashlib.sha256(repr([sorted(row.parts.items()) for row in rows]).encode()).hexdigest())"
)


@pytest.fixture(autouse=True)
def index(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUMIRAY_CACHE", str(tmp_path_factory.mktemp("index")))


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Every range that rows are fetched by."""
    asked: list[tuple[str, int, int]] = []
    ranges = storage.s3_ranges

    def counting(wanted: list[tuple[str, int, int]]) -> list[bytes]:
        asked.extend(wanted)
        return ranges(wanted)

    monkeypatch.setattr(storage, "s3_ranges", counting)
    return asked


def cached(urls: list[str], folder: Path, limit: int = 10**9) -> ShardSet:
    return ShardSet.open(urls, cache=SliceCache(str(folder), limit))


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.rows"))


def parts(rows: list[Row | BadRow]) -> list[Any]:
    return [dict(row.parts) if isinstance(row, Row) else "bad" for row in rows]


def digest(rows: list[Row | BadRow]) -> str:
    """As `READING` prints it."""
    every = [sorted(row.parts.items()) for row in rows if isinstance(row, Row)]
    return hashlib.sha256(repr(every).encode()).hexdigest()


def start(code: str, shards: ShardSet) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert process.stdin
    process.stdin.write(pickle.dumps(shards))
    process.stdin.close()
    process.stdin = None
    return process


def test_the_second_epoch_asks_s3_for_nothing_and_rows_are_the_same(
    s3: str, shards_in: ShardsIn, tmp_path: Path, requests: list[Any]
) -> None:
    urls = shards_in(s3 + "/set", COUNTS)
    plain, shards = ShardSet.open(urls), cached(urls, tmp_path)
    plan = Plan([Source("all", shards.num_rows)], PlanSettings(4, 32), 8, 8, seed=5)
    steps = plan.steps_for(2.0, "all")
    order = [plan.batch(step).row for step in range(steps)]
    expected = [parts(plain.read(rows)) for rows in order]
    requests.clear()
    got = [parts(shards.read(rows)) for rows in order[: steps // 2 + 1]]
    assert len(requests) == len(set(requests)) == len(files(tmp_path)) == SLICES
    got += [parts(shards.read(rows)) for rows in order[steps // 2 + 1 :]]
    assert got == expected
    assert len(requests) == SLICES
    again = cached(urls, tmp_path)  # another run
    assert [row.identity for row in again.read(order[0]) if isinstance(row, Row)] == order[0].tolist()
    assert len(requests) == SLICES


def test_requests_are_counted_as_they_are_made_from_an_empty_cache(
    s3: str, shards_in: ShardsIn, tmp_path: Path, requests: list[Any]
) -> None:
    shards = cached(shards_in(s3 + "/set", COUNTS), tmp_path)
    wanted = np.array([3, 3, 20, 15, 45, 73])
    assert shards.num_requests(wanted) == 4
    requests.clear()
    shards.read(wanted)
    assert len(requests) == 4
    assert shards.num_requests(wanted) == 4


def test_a_filter_finds_the_slices_that_a_run_without_one_has_kept(
    s3: str, tmp_path: Path, requests: list[Any]
) -> None:
    urls = write_set(s3 + "/set", EVERY)
    everything = cached(urls, tmp_path)
    assert everything.num_rows == sum(STORED)
    everything.read(np.arange(everything.num_rows))
    some = ShardSet.open(urls, keep=WIDE, cache=everything.cache)
    requests.clear()
    assert texts_of(some) == EXPECTED
    assert requests == []
    alone = ShardSet.open(urls, keep=WIDE, cache=SliceCache(str(tmp_path / "other"), 10**9))
    assert texts_of(alone) == EXPECTED
    assert {file.name for file in files(tmp_path / "other")} <= {file.name for file in files(tmp_path / FOLDER)}


def test_local_shards_are_read_without_it(shards_in: ShardsIn, tmp_path: Path) -> None:
    urls = shards_in(str(tmp_path / "set"), COUNTS)
    shards = cached(urls, tmp_path / "cache")
    assert parts(shards.read(np.arange(74))) == parts(ShardSet.open(urls).read(np.arange(74)))
    assert not (tmp_path / "cache").exists()


def test_it_travels_to_decoders(s3: str, shards_in: ShardsIn, tmp_path: Path) -> None:
    shards = cached(shards_in(s3 + "/set", COUNTS), tmp_path, 12345)
    other = pickle.loads(pickle.dumps(shards)).cache
    assert (other.folder, other.limit_bytes) == (str(tmp_path), 12345)
    assert len(pickle.dumps(other)) < 300


def test_two_processes_begin_with_one_cold_cache(s3: str, shards_in: ShardsIn, tmp_path: Path) -> None:
    urls = shards_in(s3 + "/set", [160, 160], size=3000)
    shards = cached(urls, tmp_path)
    both = [start(READING.format(before="1"), shards) for _ in range(2)]
    told = [process.communicate()[0].decode().strip() for process in both]
    assert told == [digest(ShardSet.open(urls).read(np.arange(320)))] * 2
    assert len(files(tmp_path)) == 20
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_writer_killed_before_its_file_has_its_name_leaves_nothing_that_is_read(
    s3: str, shards_in: ShardsIn, tmp_path: Path, requests: list[Any]
) -> None:
    urls = shards_in(s3 + "/set", COUNTS)
    shards = cached(urls, tmp_path)
    process = start(READING.format(before="os.replace = lambda *_: os.kill(os.getpid(), 9)"), shards)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    (left,) = list(tmp_path.rglob("*.tmp"))
    assert files(tmp_path) == []
    assert parts(shards.read(np.arange(74))) == parts(ShardSet.open(urls).read(np.arange(74)))
    assert left.exists() and len(files(tmp_path)) == SLICES  # its writer may still be at it
    hours_ago = time.time() - 7200
    os.utime(left, (hours_ago, hours_ago))
    assert shards.cache is not None
    shards.cache._make_room(0)
    assert not left.exists() and len(files(tmp_path)) == SLICES


@pytest.mark.parametrize("harm", ["bit", "cut", "longer", "empty", "swapped", "other form"])
def test_a_file_that_is_not_what_it_should_be_is_fetched_again(
    s3: str, shards_in: ShardsIn, tmp_path: Path, requests: list[Any], harm: str
) -> None:
    urls = shards_in(s3 + "/set", [32])
    shards = cached(urls, tmp_path)
    expected = parts(shards.read(np.arange(32)))
    first, second = files(tmp_path)
    data = first.read_bytes()
    middle = len(data) // 2
    harmed = {
        "bit": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "cut": data[:middle],
        "longer": data + b"x",
        "empty": b"",
        "swapped": second.read_bytes(),
        "other form": b"lumirow0" + data[8:],
    }[harm]
    first.write_bytes(harmed)
    requests.clear()
    assert parts(shards.read(np.arange(32))) == expected
    assert len(requests) == 1
    assert first.read_bytes() == data


def test_a_changed_shard_is_not_served_from_what_was_kept(s3: str, shards_in: ShardsIn, tmp_path: Path) -> None:
    urls = shards_in(s3 + "/set", [20])
    before = cached(urls, tmp_path)
    old = parts(before.read(np.arange(20)))
    data = storage.read_bytes(urls[0])
    storage.write_atomically(urls[0], data.replace(b"row 12", b"ROW 12"))  # of equal size
    storage.remove_tree(storage.join(s3 + "/set", catalog.FOLDER))
    new = parts(cached(urls, tmp_path).read(np.arange(20)))
    assert new[12]["txt"] == b"ROW 12" and new[:12] == old[:12]
    storage.write_atomically(urls[0], data)
    storage.remove_tree(storage.join(s3 + "/set", catalog.FOLDER))
    assert parts(cached(urls, tmp_path).read(np.arange(20))) == old


def test_what_came_damaged_is_not_kept_and_is_read_anew(
    s3: str, shards_in: ShardsIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = cached(shards_in(s3 + "/set", [16]), tmp_path)
    ranges = storage.s3_ranges
    monkeypatch.setattr(storage, "s3_ranges", lambda asked: [b"x" * len(piece) for piece in ranges(asked)])
    assert parts(shards.read(np.array([4]))) == ["bad"]
    assert files(tmp_path) == []
    monkeypatch.setattr(storage, "s3_ranges", ranges)
    right = parts(shards.read(np.arange(16)))
    assert "bad" not in right
    monkeypatch.setattr(storage, "s3_ranges", lambda asked: [b"x" * len(piece) for piece in ranges(asked)])
    assert parts(shards.read(np.arange(16))) == right  # from the disk
    assert parts(shards.read(np.array([4]), anew=True)) == ["bad"]
    assert parts(shards.read(np.arange(16))) == right


def test_slices_that_are_too_long_are_read_as_without_a_cache(
    s3: str, shards_in: ShardsIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requests: list[Any]
) -> None:
    urls = shards_in(s3 + "/set", [32], size=2000)
    monkeypatch.setattr(fetch_rows, "LONGEST_SLICE", 30_000)
    shards, plain = cached(urls, tmp_path), ShardSet.open(urls)
    expected = parts(plain.read(np.array([2, 20])))
    requests.clear()
    assert parts(shards.read(np.array([2, 20]))) == expected
    assert [length for _, _, length in requests] == plain.row_sizes(0)[[2, 20]].tolist()
    assert not (tmp_path / FOLDER).exists()


def test_many_slices_are_fetched_by_portions(
    s3: str, shards_in: ShardsIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = shards_in(s3 + "/set", [160])
    together: list[int] = []
    ranges = storage.s3_ranges
    monkeypatch.setattr(storage, "s3_ranges", lambda asked: together.append(len(asked)) or ranges(asked))
    monkeypatch.setattr(fetch_rows, "_PORTION", 4)
    shards = cached(urls, tmp_path)
    together.clear()
    assert parts(shards.read(np.arange(160))) == parts(ShardSet.open(urls).read(np.arange(160)))
    assert [number for number in together if number > 1][:3] == [4, 4, 2]


def test_a_folder_that_cannot_be_written_is_said_once_and_costs_only_requests(
    s3: str, shards_in: ShardsIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = shards_in(s3 + "/set", COUNTS)
    (tmp_path / "file").write_text("")
    shards = cached(urls, tmp_path / "file" / "cache")
    for _ in range(3):
        again = pickle.loads(pickle.dumps(shards))
        assert parts(again.read(np.arange(74))) == parts(ShardSet.open(urls).read(np.arange(74)))
    said = capsys.readouterr().out
    assert said.count("note: --data.cache") == 1
    assert f"{tmp_path}/file/cache cannot be written (Not a directory): rows are read from S3 without it" in said


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_a_full_or_read_only_disk_has_is_still_read(
    s3: str,
    shards_in: ShardsIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    requests: list[Any],
    capsys: pytest.CaptureFixture[str],
    reason: int,
) -> None:
    shards = cached(shards_in(s3 + "/set", [32]), tmp_path)
    expected = parts(shards.read(np.arange(32)))
    files(tmp_path)[0].unlink()

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(os, "replace" if reason == errno.ENOSPC else "makedirs", refuse)
    requests.clear()
    for _ in range(2):
        assert parts(shards.read(np.arange(32))) == expected
    assert len(requests) == 2
    assert not list(tmp_path.rglob("*.tmp"))
    assert capsys.readouterr().out.count(os.strerror(reason)) == 1


def test_a_job_gives_its_decoders_the_cache_by_its_whole_path(
    s3: str, emoji_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requests: list[Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    for shard in sorted(emoji_shards.glob("*.tar")):
        storage.put_file(str(shard), f"{s3}/set/{shard.name}")
    (tmp_path / "tiny.json").write_text(TINY)
    options = ("--shards", f"{s3}/set", "--output", "run", "--steps", "4", "--warmup", "0", "--model", "tiny.json")
    sizes = ("--global-batch-size", "32", "--val-shards", f"{s3}/set", "--data.group-rows", "64")
    given = (*options, *sizes, "--data.cache", "kept", "--data.cache-gb", "0.5")
    assert independent_of_here(parse("clip", given).job).run.data.cache == str(tmp_path / "kept")

    def arrays(*more: str) -> dict[str, np.ndarray]:
        stream = make_stream(check_job(parse("clip", (*options, *sizes, *more)).job), open_here)
        folders = {shards.cache and shards.cache.folder for shards in (*stream.sources, stream.validation) if shards}
        assert folders == ({str(tmp_path / "kept")} if more else {None})
        blocks = [next(Decoder(stream).blocks([Entry(TRAIN, step, 0, 32)])) for step in range(4)]
        return {name: np.concatenate([block.arrays[name] for block in blocks]) for name in blocks[0].arrays}

    plain, kept = arrays(), arrays(*given[-4:])
    requests.clear()
    from_disk = arrays(*given[-4:])
    assert requests == []
    for name, values in plain.items():
        assert np.array_equal(values, kept[name]) and np.array_equal(values, from_disk[name]), name
