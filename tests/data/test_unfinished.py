"""A making that is shared out, interrupted, killed or changed: the same bytes, and nothing written twice."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lumiray import storage
from lumiray.data import parallel
from lumiray.data.index import ShardSet
from lumiray.data.listing import Listed, expand
from lumiray.data.parallel import ray_map
from lumiray.data.unfinished import MARKER, claim
from lumiray.data.write import make_shards, write_shards
from lumiray.errors import RunFailure, UserError

SHARDS = tuple(f"{n:05d}.tar" for n in range(5))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten pictures with texts: five shards of two rows."""
    folder = tmp_path / "photos"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(10):
        pixels = draw.integers(0, 256, (8, 9 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"p{number}.png")
        (folder / f"p{number}.txt").write_text(f"caption {number}")
    return folder


class Interrupting:
    """A `map` that notes which shards it is given, and is interrupted when so many are done."""

    def __init__(self, after: int = 99) -> None:
        self.after = after
        self.names: list[str] = []

    def __call__(self, function: Callable[[Any], Any], plans: Iterable[Any]) -> Iterator[Any]:
        for plan in plans:
            if len(self.names) == self.after:
                raise KeyboardInterrupt
            self.names.append(plan.name)
            yield function(plan)


def interrupt(photos: Path, out: str, after: int = 3) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_shards(str(photos), out, rows_per_shard=2, shard_map=Interrupting(after))


def go_on(photos: Path, out: str, rows_per_shard: int = 2) -> list[str]:
    """Give the same command again; the shards that were written this time."""
    again = Interrupting()
    make_shards(str(photos), out, rows_per_shard=rows_per_shard, shard_map=again)
    return again.names


def files(folder: Path) -> dict[str, bytes]:
    """Every file but the index, whose marks are of the time."""
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file()}


def assert_whole(folder: Path, photos: Path, tmp_path: Path, rows_per_shard: int = 2) -> None:
    """It is what an uninterrupted making leaves, its index included."""
    plain = tmp_path / "uninterrupted"
    make_shards(str(photos), str(plain), rows_per_shard=rows_per_shard)
    assert files(folder) == files(plain)
    assert sorted(os.listdir(folder)) == sorted(os.listdir(plain))
    found = [ShardSet.open(expand(str(each)), scan_map=Interrupting(0)).digest for each in (folder, plain)]
    scanned = ShardSet.open(expand(str(folder)), index_folder=str(tmp_path / "index")).digest
    assert found == [scanned, scanned]


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_the_bytes_do_not_depend_on_who_writes_them(tmp_path: Path, photos: Path, kind: str) -> None:
    pool = (
        ThreadPoolExecutor(4)
        if kind == "threads"
        else ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
    )
    with pool:
        make_shards(str(photos), str(tmp_path / "out"), rows_per_shard=2, shard_map=pool.map)
    assert_whole(tmp_path / "out", photos, tmp_path)


def test_shards_may_come_back_in_any_order(tmp_path: Path, photos: Path) -> None:
    def backwards(function: Callable[[Any], Any], plans: Iterable[Any]) -> list[Any]:
        return [function(plan) for plan in reversed(list(plans))]

    make_shards(str(photos), str(tmp_path / "out"), rows_per_shard=2, shard_map=backwards)
    assert_whole(tmp_path / "out", photos, tmp_path)


def test_what_was_finished_before_an_interruption_is_not_written_again(tmp_path: Path, photos: Path) -> None:
    out = tmp_path / "out"
    interrupt(photos, str(out))
    assert MARKER in os.listdir(out) and "manifest.json" not in os.listdir(out)
    before = {name: (out / name).stat().st_mtime_ns for name in SHARDS[:3]}
    interrupt(photos, str(out), after=1)  # and once more
    assert go_on(photos, str(out)) == [SHARDS[4]]
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert_whole(out, photos, tmp_path)


def test_all_were_finished_and_nothing_lay_beside_them(tmp_path: Path, photos: Path) -> None:
    out = tmp_path / "out"
    interrupt(photos, str(out), after=4)

    def too_late(function: Callable[[Any], Any], plans: Iterable[Any]) -> Iterator[Any]:
        yield from map(function, plans)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_shards(str(photos), str(out), rows_per_shard=2, shard_map=too_late)
    assert go_on(photos, str(out)) == []
    assert_whole(out, photos, tmp_path)


def test_it_goes_on_from_another_folder(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(photos, str(tmp_path / "out"))
    monkeypatch.chdir(photos)
    again = Interrupting()
    manifest = make_shards(".", "../out", rows_per_shard=2, shard_map=again)
    assert again.names == list(SHARDS[3:]) and manifest.output == "../out"


@pytest.mark.parametrize("change", ["size", "time", "text"])
def test_a_changed_source_is_taken_as_it_is_now(tmp_path: Path, photos: Path, change: str) -> None:
    out = tmp_path / "out"
    interrupt(photos, str(out))
    if change == "size":
        Image.new("RGB", (50, 60), "red").save(photos / "p2.png")
    elif change == "time":
        data = bytearray((photos / "p2.png").read_bytes())
        data[-20] ^= 1
        (photos / "p2.png").write_bytes(data)
        os.utime(photos / "p2.png", (1, 1))
    else:
        (photos / "p2.txt").write_text("another caption")
    assert go_on(photos, str(out)) == [SHARDS[1], SHARDS[3], SHARDS[4]]
    assert_whole(out, photos, tmp_path)


def test_other_sizes_and_another_source_begin_anew(tmp_path: Path, photos: Path) -> None:
    out = tmp_path / "out"
    interrupt(photos, str(out))
    assert go_on(photos, str(out), rows_per_shard=5) == list(SHARDS[:2])
    assert_whole(out, photos, tmp_path, rows_per_shard=5)

    other = tmp_path / "other"
    interrupt(photos, str(other), after=4)
    photos.rename(tmp_path / "moved")
    (tmp_path / "moved" / "p9.png").unlink()
    (tmp_path / "moved" / "p8.png").unlink()
    assert go_on(tmp_path / "moved", str(other)) == list(SHARDS[:4])
    assert expand(str(other)) == [f"{other}/{name}" for name in SHARDS[:4]]


@pytest.mark.parametrize("damage", ["shard", "shard altered", "shard gone", "record", "record gone"])
def test_a_shard_that_is_not_what_its_record_says_is_written_again(tmp_path: Path, photos: Path, damage: str) -> None:
    out = tmp_path / "out"
    interrupt(photos, str(out))
    target = out / SHARDS[1] if damage.startswith("shard") else out / MARKER / f"{SHARDS[1]}.json"
    if damage.endswith("gone"):
        target.unlink()
    elif damage == "shard altered":
        data = bytearray(target.read_bytes())
        data[600] ^= 1
        target.write_bytes(data)
    else:
        target.write_bytes(target.read_bytes()[:-600] if damage == "shard" else b'{"digest"')
    assert go_on(photos, str(out)) == [SHARDS[1], *SHARDS[3:]]
    assert_whole(out, photos, tmp_path)


def test_rows_from_elsewhere_take_an_unfinished_folder_over(tmp_path: Path, photos: Path) -> None:
    out = tmp_path / "out"
    interrupt(photos, str(out))
    assert write_shards([("a", {"txt": b"1"})], str(out)).rows == 1
    assert sorted(os.listdir(out)) == [".lumiray-index", SHARDS[0], "manifest.json", "sizes.json"]


def test_a_finished_set_is_never_taken_over(tmp_path: Path, photos: Path) -> None:
    go_on(photos, str(tmp_path / "out"))
    for again in (partial(go_on, photos), partial(claim, wanted={})):
        with pytest.raises(UserError, match=r"already holds shards \(5 \.tar files\)"):
            again(str(tmp_path / "out"))
    assert_whole(tmp_path / "out", photos, tmp_path)


def test_a_process_that_was_killed_in_the_middle_of_a_shard(tmp_path: Path, photos: Path) -> None:
    out = tmp_path / "out"
    stuck = f"""
import sys, time
from lumiray import storage
from lumiray.data.write import make_shards

read = storage.read_bytes

def read_until_p7(url):
    if url.endswith("p7.png"):
        print("reading", flush=True)
        time.sleep(600)
    return read(url)

storage.read_bytes = read_until_p7
make_shards({str(photos)!r}, {str(out)!r}, rows_per_shard=2)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen([sys.executable, "-c", stuck], stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdout is not None and child.stdout.readline() == "reading\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    cut_off = [name for name in os.listdir(out) if name.endswith(".tmp")]
    assert len(cut_off) == 1 and expand(str(out)) == [f"{out}/{name}" for name in SHARDS[:3]]
    assert go_on(photos, str(out)) == list(SHARDS[3:])
    assert_whole(out, photos, tmp_path)


@pytest.mark.parametrize("change", ["gone", "grown"])
def test_a_picture_that_changes_meanwhile_stops_with_its_row_and_leaves_what_is_finished(
    tmp_path: Path, photos: Path, change: str
) -> None:
    out, target = tmp_path / "out", photos / "p6.png"
    whole = target.read_bytes()

    def meddle(function: Callable[[Any], Any], plans: Iterable[Any]) -> Iterator[Any]:
        for plan in plans:
            if plan.name == SHARDS[3]:
                target.unlink() if change == "gone" else target.write_bytes(whole + b"more")
            yield function(plan)

    said = "it is not there" if change == "gone" else "has changed since the rows were listed"
    with pytest.raises(RunFailure, match=rf"p6\.png: .*{said}.*the same command goes on"):
        make_shards(str(photos), str(out), rows_per_shard=2, shard_map=meddle)
    assert expand(str(out)) == [f"{out}/{name}" for name in SHARDS[:3]]
    target.write_bytes(whole)
    assert go_on(photos, str(out)) == list(SHARDS[3:])
    assert_whole(out, photos, tmp_path)


def test_on_s3_what_was_finished_is_kept_too(tmp_path: Path, photos: Path, s3: str) -> None:
    for each in photos.iterdir():
        storage.put_file(str(each), f"{s3}/photos/{each.name}")
    table = ["filepath,title", *(f"photos/p{n}.png,caption {n}" for n in range(10))]
    storage.write_atomically(f"{s3}/table.csv", "\n".join(table).encode())
    with pytest.raises(KeyboardInterrupt):
        make_shards(f"{s3}/table.csv", f"{s3}/out", rows_per_shard=2, shard_map=Interrupting(3))
    again = Interrupting()
    made = make_shards(f"{s3}/table.csv", f"{s3}/out", rows_per_shard=2, shard_map=again)
    assert again.names == list(SHARDS[3:])
    assert made.shards == make_shards(str(photos), str(tmp_path / "out"), rows_per_shard=2).shards
    assert storage.list_names(f"{s3}/out") == [".lumiray-index", *SHARDS, "manifest.json", "sizes.json"]


def test_ray_writes_the_same_and_passes_on_what_is_wrong_without_its_own_words(
    tmp_path: Path, photos: Path, ray_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "_DONE_HERE", 0)
    started: list[str] = []

    def meddle(function: Callable[[Any], Any], plans: Iterable[Any]) -> Iterator[Any]:
        (photos / "p1.png").rename(photos / "away")
        return ray_map(function, plans)

    with pytest.raises(RunFailure, match=r"p1\.png: Cannot read .* it is not there") as caught:
        make_shards(str(photos), str(tmp_path / "out"), rows_per_shard=2, shard_map=meddle)
    assert not re.search(r"ray|Traceback|\n", str(caught.value).replace(str(tmp_path), ""))
    (photos / "away").rename(photos / "p1.png")
    through_ray = partial(ray_map, start=lambda: started.append(ray_address))
    make_shards(str(photos), str(tmp_path / "out"), rows_per_shard=2, shard_map=through_ray)
    assert started == [ray_address]
    assert_whole(tmp_path / "out", photos, tmp_path)


def test_ray_is_given_shards_as_it_needs_them(ray_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_DONE_HERE", 0)
    monkeypatch.setattr(parallel, "_at_once", lambda: 3)
    taken: list[int] = []

    def shards() -> Iterator[Listed]:
        for number in range(8):
            taken.append(number)
            yield Listed("", number, "")

    results = ray_map(lambda shard: shard.size**2, shards())
    assert next(results) == 0 and taken == [0, 1, 2]
    assert list(results) == [n * n for n in range(1, 8)]


def test_no_task_writes_on_when_another_has_failed(
    tmp_path: Path, ray_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "_DONE_HERE", 0)

    def fail_or_write(shard: Listed) -> None:
        if not shard.size:
            raise UserError("the first one is wrong")
        time.sleep(0.5)
        (tmp_path / str(shard.size)).touch()

    with pytest.raises(UserError, match=r"^the first one is wrong$"):
        list(ray_map(fail_or_write, [Listed("", number, "") for number in range(20)]))
    written = os.listdir(tmp_path)
    time.sleep(1.5)
    assert len(written) < 19 and os.listdir(tmp_path) == written


def test_little_work_is_done_here_without_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, photos: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    make_shards(str(photos), str(tmp_path / "out"), rows_per_shard=2, shard_map=partial(ray_map, start=lambda: 1 / 0))
    assert_whole(tmp_path / "out", photos, tmp_path)
