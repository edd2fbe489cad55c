"""The cropped system: a row's JPEG, cropped at random, resized and flipped; nothing is learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cropped.config import CroppedConfig
from lumiray.data.decode import decode
from lumiray.data.picture import random_resized_crop, reduced_random_resized_crop
from lumiray.system import Player, Record, Row, Stage, System

if TYPE_CHECKING:
    from torch import nn

SIZE, SCALE, RATIO = 224, (0.9, 1.0), (3 / 4, 4 / 3)  # open_clip's


class Cropped(System):
    """Pictures `(3, 224, 224)` and nothing else."""

    slug = "cropped"
    config_class = CroppedConfig
    config: CroppedConfig

    def stages(self) -> tuple[Stage, ...]:
        """One, without players."""
        return (Stage("crop", Record.CLEAN, (Player("none", ()),)),)

    def build(self, stage: Stage) -> nn.ModuleDict:
        """There is nothing to build."""
        raise AssertionError("nothing is trained")

    def prepare(self, stage: Stage, row: Row, draw: np.random.Generator | None) -> dict[str, Any]:
        """`image` uint8 (3, 224, 224)."""
        assert draw is not None, "there is no evaluation"
        return {"image": cropped(row.parts["jpg"], draw, self.config.reduced_decoding)}


def cropped(data: bytes, draw: np.random.Generator, reduced: bool = False) -> np.ndarray:
    """Decode, crop at random, resize, flip half of all pictures; uint8 (3, 224, 224)."""
    if reduced:
        square = reduced_random_resized_crop(data, SIZE, SCALE, RATIO, draw)
    else:
        square = random_resized_crop(decode(data), SIZE, SCALE, RATIO, draw)
    if draw.random() < 0.5:
        square = square[:, ::-1]
    return np.ascontiguousarray(square.transpose(2, 0, 1))


SYSTEM = Cropped
