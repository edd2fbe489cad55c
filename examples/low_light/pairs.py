"""Photographs that ship inside scikit-image, each with versions of it that were darkened by computation.

    python examples/low_light/pairs.py OUTPUT

writes `OUTPUT/train/` and `OUTPUT/held-out/`, each with `lq/` (dark) and `gt/` (the photograph), for `lumiray shards
make`.  The parts are split by photograph: nothing of a held-out one is in training, in any version.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from split_photographs import PHOTOGRAPHS, photograph, squares

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


def write_pairs(output: Path, parts: Iterable[str] = tuple(PHOTOGRAPHS)) -> dict[str, Path]:
    """Write these parts as PNG below `lq/` and `gt/`; the folder of each part."""
    for part in parts:
        for half in ("lq", "gt"):
            (output / part / half).mkdir(parents=True, exist_ok=True)
        for name, dark, bright in pairs(part):
            Image.fromarray(dark).save(output / part / "lq" / f"{name}.png")
            Image.fromarray(bright).save(output / part / "gt" / f"{name}.png")
    return {part: output / part for part in parts}


def main(arguments: list[str]) -> None:
    """Command line."""
    if len(arguments) != 1:
        sys.exit(f"usage: {Path(sys.argv[0]).name} OUTPUT")
    for part, folder in write_pairs(Path(arguments[0])).items():
        print(f"{part}: {len(PHOTOGRAPHS[part])} photographs, {len(list((folder / 'gt').iterdir()))} pairs in {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
