"""A store that throttles, breaks connections and answers short: asked again, nothing lost, or a clear error."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable

import numpy as np
import pytest
from tests.data.fault_proxy import Proxy

from lumiray import s3 as s3_client
from lumiray import storage
from lumiray.data.index import ShardSet
from lumiray.data.listing import expand
from lumiray.errors import UserError
from lumiray.system import Row


@pytest.mark.parametrize("fault", ["throttle", "cut", "short"])
def test_rows_come_whole_through_faults(s3: str, proxy: Proxy, shards_in: Callable[..., list[str]], fault: str) -> None:
    shards = ShardSet.open(shards_in(f"{s3}/set", [30, 30], size=80_000))
    proxy.faults = [fault, fault, "", fault, fault]
    rows = shards.read(np.arange(0, 60, 5))
    assert not proxy.faults and proxy.requests > 12  # all faults were met
    assert [row.parts["txt"].decode() for row in rows if isinstance(row, Row)] == [f"row {n}" for n in range(0, 60, 5)]
    assert all(row.parts["bin"][:4] == row.identity.to_bytes(4, "big") for row in rows if isinstance(row, Row))


def test_a_store_that_stays_away_is_named(s3: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_atomically(f"{s3}/file", bytes(1000))
    monkeypatch.setattr(s3_client, "_ATTEMPTS", 2)
    s3_client.client(s3).retries = 1  # s3fs's own
    proxy.faults = ["throttle"] * 1000
    with pytest.raises(storage.Unreachable, match=r"Cannot read s3://.*/file: http://127.* does not answer.*SlowDown"):
        storage.read_range(f"{s3}/file", 0, 100)


def test_a_file_that_is_too_short_is_not_asked_for_again(s3: str, proxy: Proxy) -> None:
    storage.write_atomically(f"{s3}/file", bytes(1000))
    with pytest.raises(UserError, match=r"file ends too early: 100 bytes at offset 950"):
        storage.read_range(f"{s3}/file", 950, 100)
    assert proxy.requests == 1


def test_what_was_put_under_throttling_is_whole(s3: str, proxy: Proxy) -> None:
    data = np.random.default_rng(0).bytes(3 << 20)
    storage.write_atomically(f"{s3}/large", data)
    proxy.faults = ["cut", "throttle"]
    assert storage.read_ranges(f"{s3}/large", [(0, 1 << 20), (1 << 20, 2 << 20)]) == [data[: 1 << 20], data[1 << 20 :]]


def test_a_bucket_without_rights_is_said_with_the_mend(s3: str, s3_endpoint: str) -> None:
    def unauthorised_requests(allowed: str) -> None:
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{s3_endpoint}/moto-api/reset-auth", allowed.encode(), headers)
        urllib.request.urlopen(request).close()

    storage.write_atomically(f"{s3}/set/00000.tar", bytes(1024))
    unauthorised_requests("0")
    try:
        for action in (
            lambda: expand(f"{s3}/set"),
            lambda: expand(f"{s3}/set/00000.tar"),
            lambda: storage.read_bytes(f"{s3}/set/00000.tar"),
            lambda: storage.read_range(f"{s3}/set/00000.tar", 0, 10),
            lambda: storage.write_atomically(f"{s3}/x", b"x"),
        ):
            with pytest.raises(storage.NoAccess, match=r"no permission\. Check the credentials") as caught:
                action()
            assert "hush-hush" not in str(caught.value) and "testing" not in str(caught.value)
    finally:
        unauthorised_requests("inf")
