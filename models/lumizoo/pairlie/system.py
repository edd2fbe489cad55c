"""PairLIE as a system: one stage on exposures of dark scenes, one player, enhancement of pictures (card pairlie)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lumiray.system import Batch, Optimizer, Player, Record, Row, Schedule, Stage, System, Term
from lumizoo.blocks.pictures import through
from lumizoo.blocks.published import load_strictly, read_state, whole_path
from lumizoo.blocks.whole_pairs import whole_pair
from lumizoo.pairlie.config import PairlieConfig
from lumizoo.pairlie.losses import exposure_terms
from lumizoo.pairlie.network import RECEPTIVE_FIELD, Layers, PairLIE, with_least_side
from lumizoo.pairlie.prepare import prepare_exposures

Picture = TypeVar("Picture")
EPOCH = 324  # steps: one scene each
METRICS = ("psnr", "ssim")  # LPIPS is published too; its weights ship with no package


class PairlieSystem(System):
    """Low-light enhancement that is learnt from dark pictures alone."""

    slug = "pairlie"
    config_class = PairlieConfig
    config: PairlieConfig
    receptive_field = RECEPTIVE_FIELD
    truncates = True  # card pairlie, Inference

    def portable(self) -> PairlieConfig:
        """The path of the weights becomes whole: workers start in other folders."""
        return replace(self.config, weights=whole_path(self.config.weights))

    def stages(self) -> tuple[Stage, ...]:
        """The single stage, 400 epochs of 324 scenes (card pairlie, Training).

        The rate is halved after 100, 200 and 300 of them, counted in steps: with other numbers of scenes too.
        """
        player = Player(
            "pairlie",
            ("pairlie",),
            Optimizer("adam", lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0),
            Schedule("steps", milestones=(100 * EPOCH, 200 * EPOCH, 300 * EPOCH), factor=0.5),
        )
        return (
            Stage(
                "train",
                Record.EXPOSURES,
                (player,),
                steps=400 * EPOCH,
                global_batch_size=1,
                evaluation_batch_size=1,
                metrics=METRICS,
            ),
        )

    def build(self, stage: Stage) -> nn.ModuleDict:
        """The network under `pairlie`, with the weights of the settings if there are any."""
        network = PairLIE(self.config.width)
        if self.config.weights:
            load_strictly(network, read_state(self.config.weights), self.config.weights)
        self.networks = nn.ModuleDict({"pairlie": network})
        return self.networks

    def prepare(self, stage: Stage, row: Row, draw: np.random.Generator | None) -> dict[str, Any]:
        """In training `exposures` of a scene, see `prepare_exposures`; in evaluation a pair, see `whole_pair`.

        What is evaluated has a bright reference, and training has none.
        """
        if draw is None:
            return whole_pair(row)
        return prepare_exposures(row, self.config.exposures, self.config.crop_size, draw)

    def losses(self, player: str, batch: Batch, step: int) -> dict[str, Term]:
        """The terms of `exposure_terms`, from uint8 `exposures` `(B, K, 3, S, S)`."""
        return exposure_terms(self.config, self.networks["pairlie"], batch["exposures"].float() / 255)

    def published_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The names of the published checkpoints: no prefix."""
        return {name.removeprefix("pairlie."): value for name, value in state.items()}

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """What PSNR and SSIM compare: `restored` and `reference`, uint8 `(B, 3, H, W)`, of whole pairs."""
        return {"restored": self.restore(batch["lq"]), "reference": batch["gt"]}

    def restore(self, pictures: Picture) -> Picture:
        """Enhanced pictures of the kind and size that was given (see `through`); 8-bit levels are cut off.

        Raises:
            UserError: not a picture, or values outside [0, 1].
        """
        return through(pictures, self._restored, self.truncates)

    def decompose(self, pictures: Picture) -> dict[str, Picture]:
        """What pictures are made of: `illumination` (grey), `reflectance` and `projected`.

        Each is of the kind and size that was given, as in `restore`; an RGB picture's illumination has three equal
        channels.

        Raises:
            UserError: not a picture, or values outside [0, 1].
        """
        layers: Layers | None = None

        def part(name: str, given: Tensor) -> Tensor:
            nonlocal layers
            layers = layers or self._layers(given)  # once for all parts
            return getattr(layers, name).expand(-1, 3, -1, -1)

        names = ("illumination", "reflectance", "projected")
        return {name: through(pictures, partial(part, name), self.truncates) for name in names}

    def _restored(self, pictures: Tensor) -> Tensor:
        """fp32 `(B, 3, H, W)` in [0, 1] to the same."""
        return self._layers(pictures).enhanced(self.config.exponent)

    @torch.no_grad()
    def _layers(self, pictures: Tensor) -> Layers:
        """Of fp32 `(B, 3, H, W)` in [0, 1], of any size."""
        network = self.networks["pairlie"]
        height, width = pictures.shape[2:]
        layers = network(with_least_side(pictures.to(next(network.parameters()).device)))
        return Layers(*(one[..., :height, :width] for one in layers))


SYSTEM = PairlieSystem
