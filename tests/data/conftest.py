"""Shards for the tests of the data plane."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import pytest
import webdataset

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
