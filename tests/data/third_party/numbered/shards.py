"""Shards of numbered pictures, some of their rows unusable."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from numbered.picture import drawn


def write_shards(folder: Path, counts: Sequence[int], bad: Collection[int], first: int = 0) -> None:
    """Write `counts` rows to a shard each; `bad` are ordinals of rows that are cut off, empty or without a picture.

    Args:
        first: number on the first picture.
    """
    import webdataset

    folder.mkdir()
    ordinal = 0
    for number, count in enumerate(counts):
        with webdataset.TarWriter(str(folder / f"{number:05d}.tar")) as sink:
            for _ in range(count):
                parts = {"png": drawn(first + ordinal)}
                if ordinal in bad:
                    parts = ({"png": parts["png"][:60]}, {"png": b""}, {"txt": b"no picture"})[ordinal % 3]
                sink.write({"__key__": f"{number}-{ordinal}", **parts})
                ordinal += 1
