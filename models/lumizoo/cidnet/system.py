"""HVI-CIDNet as a system: one stage on pairs, one player, restoration of pictures of any size (card cidnet)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lumiray.system import Batch, Optimizer, Player, Record, Row, Schedule, Stage, System, Term
from lumizoo.blocks.pictures import pad_to_multiple, through
from lumizoo.blocks.published import load_strictly, read_state, whole_path
from lumizoo.cidnet.config import SIZE_MULTIPLE, CidnetConfig
from lumizoo.cidnet.losses import pair_terms
from lumizoo.cidnet.network import CIDNet
from lumizoo.cidnet.prepare import prepare_pair
from lumizoo.cidnet.vgg import load_vgg, vgg_file

Picture = TypeVar("Picture")
WARMUP = 183  # three epochs of LOLv1: 485 pairs in batches of 8
METRICS = ("psnr", "ssim", "psnr_gt_mean", "ssim_gt_mean")  # LPIPS is published too; its weights ship with no package


class CidnetSystem(System):
    """Low-light enhancement in the trainable colour space HVI."""

    slug = "cidnet"
    config_class = CidnetConfig
    config: CidnetConfig
    multiple = SIZE_MULTIPLE
    truncates = True  # card cidnet, Inference

    def portable(self) -> CidnetConfig:
        """Files become whole paths, and are there: this is asked before anything of a job starts."""
        config = self.config
        vgg = vgg_file(config.vgg_weights) if config.perceptual_weight else None
        return replace(config, weights=whole_path(config.weights), vgg_weights=vgg)

    def stages(self) -> tuple[Stage, ...]:
        """The single stage; Adam is AdamW without decay.

        The published rate rises by a third in each of the first epochs and then falls as a cosine: here it rises
        evenly over three epochs of LOLv1.
        """
        player = Player(
            "cidnet",
            ("cidnet",),
            Optimizer("adamw", lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0),
            Schedule("cosine", warmup=WARMUP),
        )
        return (Stage("train", Record.PAIR, (player,), global_batch_size=8, evaluation_batch_size=1, metrics=METRICS),)

    def build(self, stage: Stage) -> nn.ModuleDict:
        """The network under `cidnet`; the frozen VGG-19 under `vgg`, if its file is given and its loss counts."""
        config = self.config
        network = CIDNet(config.channels, config.heads, config.norm)
        if config.weights:
            load_strictly(network, read_state(config.weights), config.weights)
        self.networks = nn.ModuleDict({"cidnet": network})
        if config.vgg_weights and config.perceptual_weight:
            self.networks["vgg"] = load_vgg(config.vgg_weights)
        return self.networks

    def prepare(self, stage: Stage, row: Row, draw: np.random.Generator | None) -> dict[str, Any]:
        """See `prepare_pair`."""
        return prepare_pair(row, self.config.crop_size, draw)

    def losses(self, player: str, batch: Batch, step: int) -> dict[str, Term]:
        """Four terms in each space, from uint8 `lq` and `gt` `(B, 3, S, S)`.

        Raises:
            UserError: the perceptual term counts and there is no file of VGG-19's weights.
        """
        config = self.config
        if config.perceptual_weight and "vgg" not in self.networks:
            vgg_file(config.vgg_weights)
        dark, reference = (batch[half].float() / 255 for half in ("lq", "gt"))
        if config.random_gamma:
            dark = dark ** (torch.randint(60, 121, ()) / 100).to(dark.device)
        network = self.networks["cidnet"]
        vgg = self.networks["vgg"] if config.perceptual_weight else None
        return pair_terms(config, network.trans, network(dark), reference, vgg)

    def published_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The names of the published checkpoints: no prefix, and nothing of VGG-19."""
        return {name.removeprefix("cidnet."): value for name, value in state.items() if name.startswith("cidnet.")}

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """What PSNR and SSIM compare: `restored` and `reference`, uint8 `(B, 3, H, W)`, of whole pairs."""
        return {"restored": self.restore(batch["lq"]), "reference": batch["gt"]}

    def restore(self, pictures: Picture) -> Picture:
        """Enhanced pictures of the kind and size that was given (see `through`); 8-bit levels are cut off.

        The attention sees all pixels, so a picture that is cut into tiles comes out otherwise (card cidnet, Inference).

        Raises:
            UserError: not a picture, or values outside [0, 1].
        """
        return through(pictures, self._restored, self.truncates)

    @torch.no_grad()
    def _restored(self, pictures: Tensor) -> Tensor:
        """fp32 `(B, 3, H, W)` in [0, 1] to the same."""
        config, network = self.config, self.networks["cidnet"]
        height, width = pictures.shape[2:]
        padded = pad_to_multiple(pictures.to(network.trans.density_k.device), config.pad_multiple)
        enhanced = network(padded**config.gamma, config.alpha_s, config.alpha)
        return enhanced[..., :height, :width].clamp(0, 1)


SYSTEM = CidnetSystem
