"""Photographs that ship inside scikit-image, each with versions of it that were darkened by computation.

    python examples/low_light/pairs.py OUTPUT

writes `OUTPUT/train/` and `OUTPUT/held-out/`, each with `lq/` (dark) and `gt/` (the photograph), for `lumiray shards
make`.  The parts are split by photograph: nothing of a held-out one is in training, in any version.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

PHOTOGRAPHS = {  # the motorcycle is one scene from two places, so both are on one side
    "train": (
        *("astronaut", "coffee", "motorcycle_left", "motorcycle_right", "hubble_deep_field", "ihc", "retina"),
        *("camera", "coins", "moon", "brick", "grass", "gravel"),  # these are grey
    ),
    "held-out": ("chelsea", "rocket"),
}
LONGEST, TILE = 448, 128  # pixels: of a photograph's longer side; of the squares that training rows are
VERSIONS = {"train": 2, "held-out": 3}  # darkenings of every training square and held-out photograph
EXPOSURE, GAMMA, NOISE = (0.2, 0.25), (1.2, 1.4), (3.0, 4.0)  # ranges; the noise in levels of 255


@dataclass(frozen=True)
class Darkening:
    """What a photograph is taken through: `exposure * x ** gamma`, then noise of this deviation in 8-bit levels."""

    exposure: float
    gamma: float
    noise: float

    @classmethod
    def drawn(cls, draw: np.random.Generator) -> Darkening:
        """One of the ranges above."""
        return cls(*(float(draw.uniform(*limits)) for limits in (EXPOSURE, GAMMA, NOISE)))

    def of(self, picture: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """The dark picture of a bright one, both uint8 RGB `(H, W, 3)`."""
        dark = 255 * self.exposure * (picture / 255) ** self.gamma
        return (dark + draw.normal(0, self.noise, picture.shape)).round().clip(0, 255).astype(np.uint8)


def photograph(name: str) -> np.ndarray:
    """A photograph of scikit-image's package, uint8 RGB `(H, W, 3)`, its longer side at most `LONGEST`."""
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    (file,) = folder.glob(f"{name}.*g")
    picture = Image.open(file).convert("RGB")
    picture.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def squares(picture: np.ndarray) -> Iterator[np.ndarray]:
    """Squares of side `TILE` that cover a picture, the last ones overlapping those before."""
    height, width = picture.shape[:2]
    for top in places(height):
        for left in places(width):
            yield picture[top : top + TILE, left : left + TILE]


def places(size: int) -> list[int]:
    """First pixels of the squares along a side."""
    count = -(-size // TILE)
    return np.linspace(0, size - TILE, count).astype(int).tolist()


def pairs(part: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, dark, bright) of every row of `train` or `held-out`: the same at every call."""
    for name in PHOTOGRAPHS[part]:
        whole = photograph(name)
        pieces = squares(whole) if part == "train" else [whole]
        draw = np.random.default_rng(zlib.crc32(name.encode()))
        for number, piece in enumerate(pieces):
            for version in range(VERSIONS[part]):
                if part == "train":  # so few photographs do not have every colour in every brightness
                    piece = piece[..., draw.permutation(3)]
                yield f"{name}-{number:02d}-{version}", Darkening.drawn(draw).of(piece, draw), piece


def write_pairs(output: Path) -> dict[str, Path]:
    """Write both parts as PNG below `lq/` and `gt/`; the folder of each part."""
    for part in PHOTOGRAPHS:
        for half in ("lq", "gt"):
            (output / part / half).mkdir(parents=True, exist_ok=True)
        for name, dark, bright in pairs(part):
            Image.fromarray(dark).save(output / part / "lq" / f"{name}.png")
            Image.fromarray(bright).save(output / part / "gt" / f"{name}.png")
    return {part: output / part for part in PHOTOGRAPHS}


def main(arguments: list[str]) -> None:
    """Command line."""
    if len(arguments) != 1:
        sys.exit(f"usage: {Path(sys.argv[0]).name} OUTPUT")
    for part, folder in write_pairs(Path(arguments[0])).items():
        print(f"{part}: {len(PHOTOGRAPHS[part])} photographs, {len(list((folder / 'gt').iterdir()))} pairs in {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
