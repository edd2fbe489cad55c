"""Shards and a store with faults for the tests of the data plane."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence

import pytest
import webdataset
from tests.data.fault_proxy import Proxy

Shards = Callable[..., list[str]]


@pytest.fixture
def shards_in() -> Shards:
    """Write shards of numbered rows into a folder or bucket: `shards_in(folder, [10, 5, 7])` -> addresses."""

    def write(folder: str, counts: Sequence[int], size: int = 300) -> list[str]:
        from lumiray import storage

        urls, ordinal = [], 0
        for number, count in enumerate(counts):
            buffer = io.BytesIO()
            with webdataset.TarWriter(buffer) as sink:
                for _ in range(count):
                    picture = ordinal.to_bytes(4, "big") * (size // 4 + ordinal % 97)
                    sink.write({"__key__": f"{number:03d}-{ordinal:05d}", "bin": picture, "txt": f"row {ordinal}"})
                    ordinal += 1
            urls.append(storage.join(folder, f"{number:05d}.tar"))
            storage.write_atomically(urls[-1], buffer.getvalue())
        return urls

    return write


@pytest.fixture
def proxy(s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy that all requests of the test go through, with pauses between attempts that are short."""
    from lumiray import s3 as s3_client

    standing = Proxy(s3_endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", standing.address)
    monkeypatch.setattr(s3_client, "_LONGEST_PAUSE_S", 0.02)
    s3_client.forget_client()
    yield standing
    standing.server.shutdown()
    standing.server.server_close()
