"""The size of the cache: its limit holds for all processes of a host, and what was not used for longest goes first."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from lumiray.data import slice_cache
from lumiray.data.slice_cache import FOLDER, SliceCache, name_of

KEEPING = """
import sys, time
from lumiray.data.slice_cache import SliceCache, name_of
cache = SliceCache(sys.argv[1], 1_000_000)
for number in range(150):
    cache.keep(name_of(sys.argv[2], 1, "m", number, number + 1), bytes(20_000))
"""


def kept_bytes(folder: Path) -> int:
    sizes = []
    for file in folder.rglob("*.rows"):
        with suppress(FileNotFoundError):  # removed since it was listed
            sizes.append(file.stat().st_size)
    return sum(sizes)


def test_the_limit_holds_and_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = SliceCache(str(tmp_path), 1_000_000)
    names = [name_of("u", 1, "m", number, number + 1) for number in range(60)]
    for number, name in enumerate(names[:40]):  # 800 kB
        cache.keep(name, bytes(20_000))
        used = time.time() - 10_000 + number
        os.utime(cache._path(name), (used, used))
    assert cache.read(names[3], 20_000) == bytes(20_000)  # used now
    most = 0
    for name in names[40:]:
        cache.keep(name, bytes(20_000))
        most = max(most, kept_bytes(tmp_path))
    assert 900_000 <= most <= 1_000_000
    left = [number for number, name in enumerate(names) if cache.read(name, 20_000) is not None]
    assert set(left) >= {3, *range(40, 60)}
    gone = sorted(set(range(60)) - set(left))
    assert gone and gone == [number for number in range(gone[-1] + 1) if number != 3]


def test_a_use_is_noted_once_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, name = SliceCache(str(tmp_path), 10**6), name_of("u", 1, "m", 0, 1)
    cache.keep(name, b"rows")
    touched: list[str] = []
    monkeypatch.setattr(os, "utime", lambda path, *_: touched.append(path))
    assert cache.read(name, 4) == b"rows" and touched == []
    monkeypatch.setattr(slice_cache, "_USED_AGAIN_S", -1.0)
    assert cache.read(name, 4) == b"rows" and touched == [cache._path(name)]


def test_a_slice_that_would_fill_the_cache_is_not_kept(tmp_path: Path) -> None:
    cache, name = SliceCache(str(tmp_path), 100_000), name_of("u", 1, "m", 0, 1)
    cache.keep(name, bytes(20_000))
    assert cache.read(name, 20_000) is None


def test_the_limit_holds_for_all_processes_of_a_host_together(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    commands = [[sys.executable, "-c", KEEPING, str(tmp_path), f"shard {number}"] for number in range(3)]
    writers = [subprocess.Popen(command, env=environment) for command in commands]
    most = 0
    while any(writer.poll() is None for writer in writers):
        most = max(most, kept_bytes(tmp_path))
        time.sleep(0.02)
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert 700_000 < kept_bytes(tmp_path) <= 1_100_000
    assert most <= 1_100_000


def test_a_record_that_was_lost_is_counted_anew(tmp_path: Path) -> None:
    cache = SliceCache(str(tmp_path), 1_000_000)
    for number in range(40):
        cache.keep(name_of("u", 1, "m", number, number + 1), bytes(20_000))
    (tmp_path / FOLDER / "total").write_bytes(b"torn")
    cache.keep(name_of("u", 1, "m", 40, 41), bytes(20_000))
    assert cache._account().bytes == kept_bytes(tmp_path) == 41 * 20_036
