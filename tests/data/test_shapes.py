"""Shapes from headers are those that PIL gives, and are kept in the index."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumiray.data import catalog
from lumiray.data.index import ShardSet
from lumiray.data.listing import expand, look_up
from lumiray.train.reading import SampledShards


def encoded(kind: str, height: int, width: int) -> bytes:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)
    file = io.BytesIO()
    profile = {"icc_profile": bytes(100_000)} if kind == "JPEG" and height % 2 else {}  # a header of 100 kB
    Image.fromarray(pixels).save(file, kind, **profile)
    return file.getvalue()


def write_shard(path: Path, rows: list[dict[str, bytes]]) -> None:
    with tarfile.open(path, "w") as file:
        for number, parts in enumerate(rows):
            for name, data in parts.items():
                info = tarfile.TarInfo(f"{number:03d}.{name}")
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))


def test_shapes_are_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(31, 200), (300, 401), (40, 41), (511, 77), (260, 260)]
    files = [
        (kind, size, encoded(form, *size))
        for kind, form in (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"))
        for size in sizes
    ]
    bad: list[dict[str, bytes]] = [{"txt": b"no picture"}, {"jpg": b""}, {"png": files[5][2][:20]}]
    write_shard(tmp_path / "0.tar", [*({"txt": b"a", kind: data} for kind, _, data in files), *bad])
    write_shard(tmp_path / "1.tar", [{"lq.png": files[5][2], "gt.png": files[6][2]}])
    listed = look_up(expand(str(tmp_path))).values()
    shards = ShardSet.open(list(listed))
    expected = [[data.height, data.width] for data in (Image.open(io.BytesIO(one)) for _, _, one in files)]
    assert shards.shapes().tolist() == [*expected, [0, 0], [0, 0], [0, 0], list(sizes[0])]

    def never(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(catalog, "shapes_in", never)
    many = SampledShards(shards, [*listed, *listed])  # as a dry run has them, twice as many rows as were read
    assert many.shapes().tolist() == 2 * shards.shapes().tolist()
    again = ShardSet.open(expand(str(tmp_path)), digest=shards.digest)
    assert again.shapes().tolist() == shards.shapes().tolist()
