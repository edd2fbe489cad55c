"""A small convolutional system whose receptive field is known: two grids, the coarser of half the size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from lumiray.system import Player, Record, Row, Stage, System


@dataclass(frozen=True)
class SmallConfig:
    """It has no settings."""


class SmallRestorer(System):
    """Convolutions of random weights at full and half size; a pixel depends on 5 to each side."""

    slug = "small"
    config_class = SmallConfig
    receptive_field = 11
    multiple = 2

    @classmethod
    def made(cls) -> SmallRestorer:
        system = cls()
        system.build(system.stages()[0])
        return system

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("train", Record.PAIR, (Player("small", ("small",)),)),)

    def build(self, stage: Stage) -> nn.ModuleDict:
        torch.manual_seed(0)
        down, up = nn.Conv2d(3, 8, 4, 2, 1), nn.ConvTranspose2d(8, 3, 4, 2, 1)
        middle = nn.Conv2d(8, 8, 3, padding=1)
        self.networks = nn.ModuleDict({"small": nn.Sequential(down, nn.ReLU(), middle, nn.ReLU(), up)})
        return self.networks

    def prepare(self, stage: Stage, row: Row, draw: np.random.Generator | None) -> dict[str, Any]:
        raise AssertionError("nothing is trained")

    @torch.no_grad()
    def restore(self, pictures: Tensor) -> Tensor:
        height, width = pictures.shape[2:]
        even = functional.pad(pictures, (0, width % 2, 0, height % 2), "replicate")
        changed = even + 8 * self.networks["small"](even)
        return changed[..., :height, :width].clamp(0, 1)
