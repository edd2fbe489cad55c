"""Shards of real photographs for benchmarks: crops of pictures that ship inside scikit-image.

    python benchmarks/photographs.py OUTPUT --rows 2000 --width 512 --height 384 [--collages]

Every row is a different crop (place, scale, mirror) of one of a few photographs, written as JPEG with a short
caption; pictures larger than the photographs are collages of them at their native resolution.  Decoding and resizing
cost what photographs cost; nothing here is meant to be learnt from.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("astronaut", "coffee", "chelsea", "rocket", "hubble_deep_field", "retina")


def photographs() -> list[tuple[str, Image.Image]]:
    """Name and RGB picture of every photograph."""
    import skimage.data

    return [(name, Image.fromarray(getattr(skimage.data, name)()).convert("RGB")) for name in NAMES]


def crop(picture: Image.Image, size: tuple[int, int], draw: np.random.Generator) -> Image.Image:
    """A random crop of the picture's shape, scaled to `size` (width, height)."""
    width, height = picture.size
    scale = draw.uniform(0.5, 1.0) * min(width / size[0], height / size[1])
    across, down = int(size[0] * scale), int(size[1] * scale)
    left, top = draw.integers(0, width - across + 1), draw.integers(0, height - down + 1)
    cut = picture.crop((left, top, left + across, top + down)).resize(size, Image.Resampling.BICUBIC)
    return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draw.random() < 0.5 else cut


def collage(pictures: list[Image.Image], size: tuple[int, int], draw: np.random.Generator) -> Image.Image:
    """Strips of photographs at their native resolution, side by side until `size` (width, height) is full."""
    made = Image.new("RGB", size)
    strip = min(picture.height for picture in pictures)
    for top in range(0, size[1], strip):
        left = 0
        while left < size[0]:
            picture = pictures[draw.integers(len(pictures))]
            start = int(draw.integers(picture.height - strip + 1))
            made.paste(picture.crop((0, start, picture.width, start + strip)), (left, top))
            left += picture.width
    return made.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draw.random() < 0.5 else made


def write_shards(
    output: Path, rows: int, size: tuple[int, int], rows_per_shard: int = 500, collages: bool = False
) -> list[Path]:
    """Write WebDataset shards (`.jpg` and `.txt`); does nothing if they are there already."""
    output.mkdir(parents=True, exist_ok=True)
    count = -(-rows // rows_per_shard)
    shards = [output / f"{number:05d}.tar" for number in range(count)]
    if all(shard.exists() for shard in shards):
        return shards
    pictures, draw = photographs(), np.random.default_rng(0)
    for number, shard in enumerate(shards):
        partial = shard.with_suffix(".partial")
        with tarfile.open(partial, "w") as archive:
            for row in range(number * rows_per_shard, min(rows, (number + 1) * rows_per_shard)):
                name, picture = pictures[row % len(pictures)]
                caption = f"photograph {row} of the {name.replace('_', ' ')}".encode()
                if collages:
                    made, caption = collage([one for _, one in pictures], size, draw), b"a collage of photographs"
                else:
                    made = crop(picture, size, draw)
                encoded = io.BytesIO()
                made.save(encoded, "JPEG", quality=90)
                for extension, data in (("jpg", encoded.getvalue()), ("txt", caption)):
                    member = tarfile.TarInfo(f"{row:08d}.{extension}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        partial.rename(shard)
    return shards


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--height", type=int, default=384)
    parser.add_argument("--collages", action="store_true", help="for pictures larger than the photographs")
    given = parser.parse_args(arguments)
    shards = write_shards(given.output, given.rows, (given.width, given.height), collages=given.collages)
    print(f"{given.rows} rows in {len(shards)} shards in {given.output}")


if __name__ == "__main__":
    main(sys.argv[1:])
