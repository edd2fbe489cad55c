"""Shards that are read whole: each is taken once by a host, in bounded memory, and every row is the same."""

from __future__ import annotations

import json
import shutil
import signal
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.test_slice_cache import READING, digest, files, parts, start
from tests.data.test_survivors import EVERY, EXPECTED, WIDE, texts_of, write_set

from lumiray import storage
from lumiray.data import catalog, fetch, whole_shards
from lumiray.data.fetch_rows import SLICE_ROWS
from lumiray.data.index import ShardSet
from lumiray.data.plan import Plan, PlanSettings, Source
from lumiray.data.slice_cache import FOLDER, SliceCache
from lumiray.errors import UserError
from lumiray.system import BadRow, Row

COUNTS = [40, 33, 0, 1]
ROWS, SLICES = sum(COUNTS), 7
ShardsIn = Callable[..., list[str]]
Asked = list[tuple[str, int, int]]


@pytest.fixture(autouse=True)
def index(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("index")
    monkeypatch.setenv("LUMIRAY_CACHE", str(folder))
    return folder


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Every range of a shard that is fetched from S3: name, first byte, length."""
    asked: Asked = []
    ranges = storage.s3_ranges

    def counting(wanted: Asked) -> list[bytes]:
        asked.extend((storage.base_name(url), first, length) for url, first, length in wanted)
        return ranges(wanted)

    monkeypatch.setattr(storage, "s3_ranges", counting)
    return asked


def told(shards_in: ShardsIn, folder: str, counts: list[int], **more: Any) -> list[str]:
    """Shards with `sizes.json` beside them."""
    urls = shards_in(folder, counts, **more)
    sizes = {storage.base_name(url): rows for url, rows in zip(urls, counts, strict=True)}
    storage.write_atomically(f"{folder}/sizes.json", json.dumps(sizes).encode())
    return urls


def whole(urls: list[str], folder: Path, limit: int = 10**9, **more: Any) -> ShardSet:
    return ShardSet.open(urls, cache=SliceCache(str(folder), limit), whole=True, **more)


def stored(urls: list[str], tmp_path: Path) -> list[Any]:
    """Rows as the sliced way reads them; its index lies apart."""
    shards = ShardSet.open(urls, index_folder=str(tmp_path / "sliced"))
    return parts(shards.read(np.arange(shards.num_rows)))


def pieces_of(urls: list[str], most: int) -> Asked:
    """The requests that take each shard once: all its bytes from left to right."""
    found: Asked = []
    for url in urls:
        size = storage.entry(url).size
        found += [(storage.base_name(url), at, min(most, size - at)) for at in range(0, size, most)]
    return found


def last_of(urls: list[str], asked: Asked) -> list[tuple[int, tuple[str, int, int]]]:
    """Size of each shard, and the last request for it."""
    return [(storage.entry(url).size, max(one for one in asked if one[0] == storage.base_name(url))) for url in urls]


@pytest.mark.parametrize("request_bytes", [4096, 16 << 20])
def test_a_shard_on_s3_is_taken_once_from_its_first_byte_to_its_last(
    s3: str, shards_in: ShardsIn, tmp_path: Path, requests: Asked, monkeypatch: pytest.MonkeyPatch, request_bytes: int
) -> None:
    monkeypatch.setattr(whole_shards, "REQUEST_BYTES", request_bytes)
    urls = told(shards_in, s3 + "/set", COUNTS)
    shards = whole(urls, tmp_path / "cache")
    assert requests == []
    plan = Plan([Source("all", ROWS, 1.0, shards.counts)], PlanSettings(group_rows=32, read="shard"), 8, 8, seed=5)
    order = [plan.batch(step).row for step in range(plan.steps_for(2.0, "all"))]
    got = [parts(shards.read(rows)) for rows in order]
    asked = sorted(requests)
    rows_of_two_epochs = [row for batch in got for row in batch]
    expected = stored(urls, tmp_path)
    assert rows_of_two_epochs == [expected[row] for row in np.concatenate(order)]
    full = [url for url, count in zip(urls, COUNTS, strict=True) if count]
    pieces = pieces_of(full, request_bytes)
    assert len(asked) == len(set(asked)) and set(asked) <= set(pieces)  # none twice, and no row by itself
    # all but zeros at the end of an archive, which nothing follows
    assert all(size - (first + length) < 10_240 for size, (_, first, length) in last_of(full, asked))
    assert len(asked) == sum(1 for name, first, _ in pieces if first <= max(f for n, f, _ in asked if n == name))
    assert len(files(tmp_path / "cache")) == SLICES


def test_the_slices_are_those_that_the_other_way_keeps(
    s3: str, shards_in: ShardsIn, tmp_path: Path, requests: Asked
) -> None:
    urls = told(shards_in, s3 + "/set", COUNTS)
    whole(urls, tmp_path / "whole").read(np.arange(ROWS))
    sliced = ShardSet.open(urls, cache=SliceCache(str(tmp_path / "sliced"), 10**9))
    sliced.read(np.arange(ROWS))
    kept = [{one.name: one.read_bytes() for one in files(tmp_path / name)} for name in ("whole", "sliced")]
    assert kept[0] == kept[1] and len(kept[0]) == SLICES
    requests.clear()
    again = ShardSet.open(urls, cache=SliceCache(str(tmp_path / "whole"), 10**9))
    again.read(np.arange(ROWS))
    assert requests == []


def test_processes_of_a_host_take_each_shard_once_together(
    s3: str, shards_in: ShardsIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four of them begin at once; what each asks S3 for, it writes down."""
    urls = told(shards_in, s3 + "/set", [160, 90, 120], size=3000)
    shards = whole(urls, tmp_path / "cache")
    journal = tmp_path / "journal"
    watch = (
        f"from lumiray import storage; ranges = storage.s3_ranges; log = open({str(journal)!r}, 'a', buffering=1);"
        "storage.s3_ranges = lambda asked: [log.write(f'{one[0]} {one[1]}\\n') for one in asked] and ranges(asked)"
    )
    processes = [start(READING.format(before=watch), shards) for _ in range(4)]
    printed = [process.communicate()[0].decode().strip() for process in processes]
    expected = digest(ShardSet.open(urls, index_folder=str(tmp_path / "apart")).read(np.arange(370)))
    assert printed == [expected] * 4
    asked = Counter(journal.read_text().splitlines())
    assert set(asked.values()) == {1}
    assert {line.split()[0] for line in asked} == set(urls)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_taker_that_is_killed_holds_nobody_up_and_leaves_nothing_that_is_read(
    s3: str, shards_in: ShardsIn, tmp_path: Path
) -> None:
    urls = told(shards_in, s3 + "/set", [160], size=3000)
    shards = whole(urls, tmp_path / "cache")
    dies = (
        "replace, done = os.replace, [];"
        "os.replace = lambda *them: (os.kill(os.getpid(), 9) if len(done) == 4 else done.append(replace(*them)))"
    )
    process = start(READING.format(before=dies), shards)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(files(tmp_path / "cache")) == 4 and len(list(tmp_path.rglob("*.tmp"))) == 1
    assert parts(shards.read(np.arange(160))) == stored(urls, tmp_path)
    assert len(files(tmp_path / "cache")) == 10


def test_a_slice_that_the_cache_has_lost_is_asked_for_by_itself_and_a_lost_shard_is_taken_again(
    s3: str, shards_in: ShardsIn, tmp_path: Path, requests: Asked
) -> None:
    urls = told(shards_in, s3 + "/set", [64])
    shards = whole(urls, tmp_path / "cache")
    expected = parts(shards.read(np.arange(64)))
    files(tmp_path / "cache")[1].unlink()
    requests.clear()
    assert parts(shards.read(np.arange(64))) == expected
    ((_, _, length),) = requests
    assert length < storage.entry(urls[0]).size / 3
    shutil.rmtree(tmp_path / "cache")
    requests.clear()
    assert parts(shards.read(np.arange(20))) == expected[:20]
    assert requests == pieces_of(urls, whole_shards.REQUEST_BYTES)
    assert len(files(tmp_path / "cache")) == 4


def test_memory_is_bounded_by_slices_and_answers_however_large_a_shard_is(
    s3: str, shards_in: ShardsIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_shards, "REQUEST_BYTES", 10_000)
    urls = told(shards_in, s3 + "/set", [400], size=1000)
    held: list[int] = []
    fetch_more = whole_shards._Intake._fetch

    def watched(self: Any, offset: int, stop: int) -> None:
        fetch_more(self, offset, stop)
        held.append(len(self._held))

    monkeypatch.setattr(whole_shards._Intake, "_fetch", watched)
    shards = whole(urls, tmp_path / "cache")
    assert parts(shards.read(np.arange(400))) == stored(urls, tmp_path)
    slice_bytes = SLICE_ROWS * int(shards.row_sizes(0).max())
    assert max(held) <= slice_bytes + 4 * 10_000 + 512
    assert storage.entry(urls[0]).size > 5 * max(held)


def test_rows_that_are_too_long_for_a_slice_are_jumped_over_and_read_by_themselves(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requests: Asked
) -> None:
    monkeypatch.setattr(whole_shards, "REQUEST_BYTES", 4096)
    for module in ("fetch_rows", "whole_shards"):
        monkeypatch.setattr(f"lumiray.data.{module}.LONGEST_SLICE", 60_000)
    path = tmp_path / "one.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(48):
            member = tarfile.TarInfo(f"{number:03d}.bin")
            member.size = 200_000 if number in (20, 25) else 500
            archive.addfile(member, open_of(bytes([number]) * member.size))
    storage.put_file(str(path), f"{s3}/set/00000.tar")
    storage.write_atomically(f"{s3}/set/sizes.json", b'{"00000.tar": 48}')
    shards = whole([f"{s3}/set/00000.tar"], tmp_path / "cache")
    rows = shards.read(np.array([3, 40]))
    assert parts(rows) == [{"bin": bytes([3]) * 500}, {"bin": bytes([40]) * 500}]
    assert sum(length for _, _, length in requests) < 250_000  # of 430,000
    assert len(files(tmp_path / "cache")) == 2
    every = parts(shards.read(np.arange(48)))
    assert [(row["bin"][0], len(row["bin"])) for row in every] == [
        (number, 200_000 if number in (20, 25) else 500) for number in range(48)
    ]


def open_of(data: bytes) -> Any:
    import io

    return io.BytesIO(data)


def test_a_full_disk_costs_requests_and_no_rows(
    s3: str, shards_in: ShardsIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = told(shards_in, s3 + "/set", COUNTS)
    (tmp_path / "file").write_text("")
    for folder, limit in ((tmp_path / "file" / "cache", 10**9), (tmp_path / "small", 20_000)):
        shards = whole(urls, folder, limit)
        for _ in range(2):
            assert parts(shards.read(np.arange(ROWS))) == stored(urls, tmp_path)
    assert capsys.readouterr().out.count("note: --data.cache") == 1


def test_local_shards_are_walked_over_once_by_a_host_and_need_no_cache(
    shards_in: ShardsIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = told(shards_in, str(tmp_path / "set"), COUNTS)
    scanned: list[str] = []
    window_of = fetch.window_of
    monkeypatch.setattr("lumiray.data.tar.window_of", lambda url: scanned.append(url) or window_of(url))
    for _ in range(2):  # as two processes: offsets are in no memory
        shards = whole(urls, tmp_path / "cache")
        assert parts(shards.read(np.arange(ROWS))) == parts(shards.read(np.arange(ROWS)))
    assert sorted(scanned) == [urls[0], urls[1], urls[3]]
    assert not (tmp_path / "cache").exists() and not (tmp_path / "set" / catalog.FOLDER).exists()
    assert parts(shards.read(np.arange(ROWS))) == stored(urls, tmp_path)


@pytest.mark.parametrize("place", ["local", "s3"])
def test_hostile_members_and_broken_archives_are_met_as_in_the_sliced_way(
    request: pytest.FixtureRequest, tmp_path: Path, place: str
) -> None:
    folder = str(tmp_path / "set") if place == "local" else request.getfixturevalue("s3") + "/set"
    path = tmp_path / "one.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind in (
            ("a.txt", tarfile.REGTYPE),
            ("../../evil.txt", tarfile.REGTYPE),
            ("/etc/passwd.txt", tarfile.REGTYPE),
            ("b.txt", tarfile.SYMTYPE),
            ("c.txt", tarfile.LNKTYPE),
            ("d.txt", tarfile.REGTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            member.size = 3 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, open_of(b"abc") if member.size else None)
    good = path.read_bytes()
    storage.write_atomically(f"{folder}/00000.tar", good)
    storage.write_atomically(f"{folder}/00001.tar", good[:700])
    storage.write_atomically(f"{folder}/00002.tar", b"\x1f\x8b" + good[2:])
    storage.write_atomically(f"{folder}/sizes.json", b'{"00000.tar": 2, "00001.tar": 2, "00002.tar": 2}')
    shards = whole([f"{folder}/0000{number}.tar" for number in range(3)], tmp_path / "cache")
    rows = shards.read(np.array([0, 1]))
    assert [(row.key, row.parts) for row in rows if isinstance(row, Row)] == [
        ("a", {"txt": b"abc"}),
        ("d", {"txt": b"abc"}),
    ]
    for ordinal, words in ((2, r"00001\.tar cannot be read past byte 0"), (4, r"00002\.tar .* it is compressed")):
        with pytest.raises(UserError, match=words):
            shards.read(np.array([ordinal]))


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_shard_that_is_replaced_before_it_is_taken_stops_the_run_and_nothing_of_it_is_kept(
    request: pytest.FixtureRequest, shards_in: ShardsIn, tmp_path: Path, index: Path, place: str
) -> None:
    folder = str(tmp_path / "set") if place == "local" else request.getfixturevalue("s3") + "/set"
    urls = told(shards_in, folder, [40])
    shards = whole(urls, tmp_path / "cache")
    data = storage.read_bytes(urls[0])
    storage.write_atomically(urls[0], data.replace(b"row 12", b"ROW 12"))  # of equal size, and a whole archive
    with pytest.raises(UserError, match="was changed while the run was reading it"):
        shards.read(np.arange(40))
    assert files(tmp_path / "cache") == [] and not list(index.rglob("*.parquet"))


def test_a_row_that_came_damaged_is_read_anew_from_the_store(
    s3: str, shards_in: ShardsIn, tmp_path: Path, requests: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = whole(told(shards_in, s3 + "/set", [40]), tmp_path / "cache")
    right = parts(shards.read(np.arange(40)))
    requests.clear()
    assert parts(shards.read(np.array([20]), anew=True)) == [right[20]]
    assert len(requests) == 1 and requests[0][1] > 0  # its slice alone
    ranges = storage.s3_ranges
    monkeypatch.setattr(storage, "s3_ranges", lambda asked: [b"x" * len(piece) for piece in ranges(asked)])
    assert isinstance(shards.read(np.array([4]), anew=True)[0], BadRow)
    assert parts(shards.read(np.arange(40))) == right  # from the disk


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_filter_makes_the_index_and_its_rows_are_cut_from_whole_shards(
    request: pytest.FixtureRequest, tmp_path: Path, place: str
) -> None:
    folder = str(tmp_path / "set") if place == "local" else request.getfixturevalue("s3") + "/set"
    urls = write_set(folder, EVERY)
    shards = whole(urls, tmp_path / "cache", keep=WIDE)
    assert texts_of(shards) == EXPECTED
    assert shards.counts.sum() == len(EXPECTED)
    assert shards.digest != whole(urls, tmp_path / "cache").digest


def test_requests_are_counted_as_each_rows_share_of_its_shards(
    s3: str, shards_in: ShardsIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_shards, "REQUEST_BYTES", 4096)
    urls = told(shards_in, s3 + "/set", COUNTS)
    shards = whole(urls, tmp_path / "cache")
    full = [url for url, count in zip(urls, COUNTS, strict=True) if count]
    assert shards.num_requests(np.arange(ROWS)) == pytest.approx(len(pieces_of(full, 4096)))
    first = len(pieces_of(urls[:1], 4096))
    assert shards.num_requests(np.array([3, 5])) == pytest.approx(first * 2 / 40)
    assert not (tmp_path / "cache" / FOLDER).exists()
