"""A store whose listings and answers lag behind: nothing is lost, nothing comes twice, and what changed is named."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset
from tests.data.fault_proxy import Proxy

from lumiray import storage
from lumiray.data.catalog import FOLDER, Catalog
from lumiray.data.index import ShardSet
from lumiray.data.listing import expand, find, still_there
from lumiray.data.verify import verify
from lumiray.data.write import write_shards
from lumiray.errors import UserError
from lumiray.system import BadRow, Row

ShardsIn = Callable[..., list[str]]
NAMES = [f"{number:05d}.tar" for number in range(12)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUMIRAY_CACHE", str(tmp_path / "cache"))


def names_of(urls: list[str]) -> list[str]:
    return [storage.base_name(url) for url in urls]


def texts(rows: list[Row | BadRow]) -> list[str]:
    return [row.parts["txt"].decode() if isinstance(row, Row) else "bad" for row in rows]


def test_a_named_shard_that_the_listing_lacks_is_asked_for(s3: str, proxy: Proxy, shards_in: ShardsIn) -> None:
    shards_in(f"{s3}/set", [1] * 12)
    proxy.unlisted = {"00003.tar", "00011.tar"}
    assert names_of(expand(f"{s3}/set/{{00000..00011}}.tar")) == NAMES
    assert sorted(proxy.heads) == ["00003.tar", "00011.tar"]
    assert names_of(expand(f"{s3}/set")) == [name for name in NAMES if name not in proxy.unlisted]  # nothing names them


def test_a_range_that_is_truly_missing_costs_few_requests(s3: str, proxy: Proxy, shards_in: ShardsIn) -> None:
    shards_in(f"{s3}/set", [1] * 2)
    with pytest.raises(UserError, match=r"998 of the 1000 shards .* missing: .*00002\.tar, .*00003\.tar"):
        expand(f"{s3}/set/{{00000..00999}}.tar")
    assert len(proxy.heads) <= 64


@pytest.mark.parametrize("pattern", ["set", "s?t/0*"])
def test_a_shard_of_the_manifest_that_the_listing_lacks_is_asked_for(s3: str, proxy: Proxy, pattern: str) -> None:
    rows = [(f"k{number}", {"txt": b"text"}) for number in range(4)]
    write_shards(rows, f"{s3}/set", rows_per_shard=1)
    proxy.unlisted, proxy.absent = {"00000.tar", "00002.tar"}, {"00002.tar": 2}
    assert names_of(expand(f"{s3}/{pattern}")) == NAMES[:4]
    assert not any("is missing" in problem for problem in verify(f"{s3}/set"))
    proxy.unlisted = set(NAMES)
    assert names_of(expand(f"{s3}/set")) == NAMES[:4]
    storage.remove_tree(f"{s3}/set/00002.tar")  # and one that is gone is not made up
    assert names_of(expand(f"{s3}/set")) == ["00000.tar", "00001.tar", "00003.tar"]


def test_a_damaged_manifest_does_not_hide_the_shards_that_are_listed(
    s3: str, proxy: Proxy, shards_in: ShardsIn
) -> None:
    shards_in(f"{s3}/set", [1, 1])
    storage.write_atomically(f"{s3}/set/manifest.json", b"{")
    assert names_of(expand(f"{s3}/set")) == NAMES[:2]


def test_what_is_listed_and_not_handed_out_yet_is_asked_for_again(s3: str, proxy: Proxy, shards_in: ShardsIn) -> None:
    urls = shards_in(f"{s3}/set", [5, 6])
    proxy.absent = {"00000.tar": 3, "00001.tar": 4}
    shards = ShardSet.open(find(f"{s3}/set"))
    proxy.absent = {"00000.tar": 4, "00001.tar": 1}
    assert texts(shards.read(np.arange(11))) == [f"row {number}" for number in range(11)]
    proxy.absent = {"00000.tar": 2}
    assert names_of([shard.url for shard in still_there(urls)]) == NAMES[:2]
    proxy.absent = {"00001.tar": 1000}
    with pytest.raises(storage.NotThere, match=r"Cannot read .*00001\.tar: it is not there"):
        shards.read(np.arange(11))
    assert proxy.absent["00001.tar"] == 1000 - 5
    with pytest.raises(UserError, match=r"1 shards are not there any more, such as .*00001\.tar"):
        still_there(urls)


def test_a_bucket_that_is_not_there_is_not_waited_for(s3: str, proxy: Proxy) -> None:
    with pytest.raises(storage.NoBucket):
        storage.entry("s3://no-such-bucket/set/00000.tar", listed=True)
    with pytest.raises(storage.NoBucket):
        storage.read_range("s3://no-such-bucket/set/00000.tar", 0, 10)
    assert proxy.requests == 1


def test_a_listing_that_still_shows_a_removed_shard(s3: str, proxy: Proxy, shards_in: ShardsIn) -> None:
    shards_in(f"{s3}/set", [5, 6, 7])
    find(f"{s3}/set")
    storage.remove_tree(f"{s3}/set/00001.tar")
    proxy.stale = True
    found = find(f"{s3}/set")
    assert len(found) == 3
    with pytest.raises(storage.NotThere, match=r"00001\.tar is not there, though a listing of its folder named it"):
        ShardSet.open(found)
    proxy.stale = False
    shards = ShardSet.open(find(f"{s3}/set"))
    assert texts(shards.read(np.arange(12))) == [f"row {number}" for number in (*range(5), *range(11, 18))]


def replaced(url: str, count: int) -> None:
    """Put another shard in the place of one."""
    buffer = io.BytesIO()
    with webdataset.TarWriter(buffer) as sink:
        for number in range(count):
            sink.write({"__key__": f"new-{number}", "txt": f"new {number}"})
    storage.write_atomically(url, buffer.getvalue())


@pytest.mark.parametrize("indexed", [False, True])
def test_a_listing_with_an_old_mark_is_noticed(s3: str, proxy: Proxy, shards_in: ShardsIn, indexed: bool) -> None:
    urls = shards_in(f"{s3}/set", [5, 6])
    find(f"{s3}/set")
    if indexed:
        ShardSet.open(urls)
    replaced(urls[1], 4)
    proxy.stale = True
    named = r"00001\.tar was changed while the run was reading it|00001\.tar ends too early"
    with pytest.raises(UserError, match=named):
        ShardSet.open(find(f"{s3}/set")).read(np.arange(11))
    proxy.stale = False
    if indexed:
        with pytest.raises(UserError, match=r"00001\.tar has changed since it was indexed"):
            ShardSet.open(find(f"{s3}/set"))
        storage.remove_tree(f"{s3}/set/{FOLDER}")
    shards = ShardSet.open(find(f"{s3}/set"))
    assert texts(shards.read(np.arange(9))) == [
        *(f"row {number}" for number in range(5)),
        *(f"new {n}" for n in range(4)),
    ]


def test_nothing_of_a_new_shard_is_kept_under_an_old_mark(s3: str, proxy: Proxy, shards_in: ShardsIn) -> None:
    urls = shards_in(f"{s3}/set", [5, 6])
    old = find(f"{s3}/set")[1]
    data = storage.read_bytes(urls[1])
    replaced(urls[1], 4)
    catalog = Catalog(f"{s3}/set", None)
    for scan in (catalog.rows, catalog.keys, lambda shard: catalog.up_to_date([shard], map, rebuild=True)):
        with pytest.raises(UserError, match=r"00001\.tar was changed"):
            scan(old)
    storage.write_atomically(urls[1], data)  # the old one comes back
    assert len(catalog.rows(old).offsets) == 6 and len(catalog.keys(old)) == 6
    assert ShardSet.open(urls).num_rows == 11
