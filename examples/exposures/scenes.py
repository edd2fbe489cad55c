"""Photographs of scikit-image as dark scenes: each square of them in several exposures, computed.

    python examples/exposures/scenes.py OUTPUT

writes `OUTPUT/train/` with files `NAME.0.png`, `NAME.1.png`, ... that are the exposures of a scene, and nothing bright;
and `OUTPUT/held-out/` with the dark and bright pairs of photographs that are in no scene, those of examples/low_light.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(EXAMPLES), str(EXAMPLES / "low_light")]

from pairs import GAMMA, NOISE, Darkening, write_pairs
from split_photographs import GREY, PHOTOGRAPHS, photograph, squares

COLOURED = tuple(name for name in PHOTOGRAPHS["train"] if name not in GREY)  # colours are what is learnt last
EXPOSURES = ((0.12, 0.20), (0.20, 0.35), (0.35, 0.60))  # ranges, one for each picture of a scene


def scenes() -> Iterator[tuple[str, list[np.ndarray]]]:
    """(name, exposures) of every training row, uint8 RGB `(H, W, 3)`: the same at every call.

    The exposures of a scene share their gamma, as those of one camera do, and have noise of their own.
    """
    for name in COLOURED:
        draw = np.random.default_rng(zlib.crc32(name.encode()))
        for number, square in enumerate(squares(photograph(name))):
            square = square[..., draw.permutation(3)]  # so few photographs do not have every colour
            gamma, noise = float(draw.uniform(*GAMMA)), float(draw.uniform(*NOISE))
            exposures = [float(draw.uniform(*limits)) for limits in EXPOSURES]
            yield f"{name}-{number:02d}", [Darkening(one, gamma, noise).of(square, draw) for one in exposures]


def write_scenes(output: Path) -> dict[str, Path]:
    """Write both parts as PNG; the folder of each."""
    folder = output / "train"
    folder.mkdir(parents=True, exist_ok=True)
    for name, exposures in scenes():
        for number, picture in enumerate(exposures):
            Image.fromarray(picture).save(folder / f"{name}.{number}.png")
    return {"train": folder, "held-out": write_pairs(output, ("held-out",))["held-out"]}


def main(arguments: list[str]) -> None:
    """Command line."""
    if len(arguments) != 1:
        sys.exit(f"usage: {Path(sys.argv[0]).name} OUTPUT")
    for part, folder in write_scenes(Path(arguments[0])).items():
        print(f"{part}: {len(list(folder.rglob('*.png')))} pictures in {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
