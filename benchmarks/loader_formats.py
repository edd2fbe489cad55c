"""Loaders with a format of their own, where they are installed: the same JPEGs, copied into it, for loader.py.

    python benchmarks/loader_formats.py SIDE SHARDS ROWS BATCH PROCESSES

MosaicML streaming (`pip install mosaicml-streaming`) and LitData (`pip install litdata`), shuffled, with the PIL
transform in the workers of a DataLoader.
"""

from __future__ import annotations

import importlib.util
import io
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))
from job import ROOT
from loader_sides import Work, main, pil_transform

if TYPE_CHECKING:
    from torch import Tensor

MODULES = {"mosaicml-streaming": "streaming", "litdata": "litdata"}


def missing(side: str) -> bool:
    """Whether a side needs a package that is not installed."""
    return side in MODULES and importlib.util.find_spec(MODULES[side]) is None


def copied(side: str, shards: Path) -> Path:
    """The folder of a side's copy of the shards' pictures, made if it is not there."""
    folder = ROOT / ".cache" / "benchmarks" / f"{shards.name}-{side}"
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        {"mosaicml-streaming": write_mosaic, "litdata": write_litdata}[side](jpegs(shards), partial)
        partial.rename(folder)
    return folder


def jpegs(shards: Path) -> list[bytes]:
    """All pictures as stored."""
    import webdataset as wds

    urls = [str(shard) for shard in sorted(shards.glob("*.tar"))]
    return [row["jpg"] for row in wds.WebDataset(urls, shardshuffle=False)]


def write_mosaic(pictures: list[bytes], folder: Path) -> None:
    """As MDS shards."""
    from streaming import MDSWriter

    with MDSWriter(columns={"jpg": "bytes"}, out=str(folder)) as writer:
        for picture in pictures:
            writer.write({"jpg": picture})


def write_litdata(pictures: list[bytes], folder: Path) -> None:
    """As LitData's chunks."""
    import litdata

    litdata.optimize(
        lambda number: {"jpg": pictures[number]},
        list(range(len(pictures))),
        str(folder),
        chunk_bytes="64MB",
        num_workers=1,
        start_method="fork",
        verbose=False,
    )


def mosaic(work: Work) -> Iterator[Tensor]:
    """StreamingDataset on local shards, one epoch after the other."""
    import streaming
    from torch.utils.data import DataLoader

    made = prepared()

    class Pictures(streaming.StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, number: int) -> Tensor:
            return made(super().__getitem__(number))

    rows = Pictures(local=str(work.shards), shuffle=True, batch_size=work.batch)
    loader = DataLoader(rows, work.batch, num_workers=work.processes, drop_last=True, persistent_workers=True)
    while True:
        yield from loader


def litdata(work: Work) -> Iterator[Tensor]:
    """StreamingDataset on local chunks, one epoch after the other."""
    import litdata

    rows = litdata.StreamingDataset(str(work.shards), shuffle=True, transform=prepared())
    loader = litdata.StreamingDataLoader(
        rows, batch_size=work.batch, num_workers=work.processes, drop_last=True, persistent_workers=True
    )
    while True:
        yield from loader


def prepared() -> Callable[[dict[str, Any]], Tensor]:
    """The PIL transform of a row with a `jpg`."""
    from PIL import Image

    transform = pil_transform()
    return lambda row: transform(Image.open(io.BytesIO(row["jpg"])).convert("RGB"))


SIDES: dict[str, Callable[[Work], Iterator[Tensor]]] = {"mosaicml-streaming": mosaic, "litdata": litdata}

if __name__ == "__main__":
    main(sys.argv[1:], SIDES)
