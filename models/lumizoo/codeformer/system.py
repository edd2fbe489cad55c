"""CodeFormer as a system: stages on clean faces, restoration with a weight for fidelity (card codeformer).

Whole photographs are not restored here: finding, aligning and pasting back faces needs facexlib and its weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from lumiray.errors import check_number
from lumiray.system import Batch, Player, Row, Stage, System, Term
from lumizoo.blocks.lpips import LPIPS_OPTION, VGG_OPTION, load_lpips, lpips_files
from lumizoo.blocks.pictures import through
from lumizoo.blocks.published import load_strictly, read_state, whole_path
from lumizoo.codeformer.config import CodeformerConfig
from lumizoo.codeformer.discriminator import Discriminator
from lumizoo.codeformer.network import CodeFormer, Prediction
from lumizoo.codeformer.objectives import (
    Critics,
    as_fractions,
    code_terms,
    discriminator_terms,
    picture_terms,
    resting,
    signed,
)
from lumizoo.codeformer.phases import is_adversarial, phase_at
from lumizoo.codeformer.prepare import prepare_face
from lumizoo.codeformer.stages import stages_of
from lumizoo.codeformer.vqgan import Tokenizer, Vqgan
from lumizoo.codeformer.weights import (
    DISCRIMINATOR_OPTION,
    VQGAN_OPTION,
    carried_over,
    check_filled,
    is_real,
    load_codeformer,
    published,
)

Picture = TypeVar("Picture")
WITHOUT_LPIPS = "--perceptual-weight 0"
EVALUATED = {"vqgan": "clean", "codes": "degraded", "features": "degraded", "inpainting": "masked_widely"}
FIDELITY = {"features": 0.5, "inpainting": 1.0}  # published; other stages train no connections


class CodeformerSystem(System):
    """Blind restoration of aligned faces."""

    slug = "codeformer"
    config_class = CodeformerConfig
    config: CodeformerConfig
    whole = True

    def portable(self) -> CodeformerConfig:
        """Files become whole paths, and are there: this is asked before anything of a job starts."""
        config = self.config
        return replace(
            config,
            weights=whole_path(config.weights),
            vqgan_weights=whole_path(config.vqgan_weights, VQGAN_OPTION),
            discriminator_weights=whole_path(config.discriminator_weights, DISCRIMINATOR_OPTION),
            vgg_weights=whole_path(config.vgg_weights, VGG_OPTION),
            lpips_weights=whole_path(config.lpips_weights, LPIPS_OPTION),
        )

    def stages(self) -> tuple[Stage, ...]:
        """See `stages_of`."""
        return stages_of(self.config)

    def build(self, stage: Stage) -> nn.ModuleDict:
        """The networks of a stage, with the weights of the files that the settings name.

        `vqgan` in stage vqgan; `codeformer` and its `target`, the frozen encoder and codebook of stage vqgan, in the
        others; `discriminator` in all; `lpips`, frozen, if its files are given and its loss counts.

        Raises:
            UserError: a file is missing, holds more than tensors, or does not fit.
        """
        config = self.config
        self._stage = stage.name
        self._target_is_checked = False
        self.networks = nn.ModuleDict()
        if stage.name == "vqgan":
            self.networks["vqgan"] = own = Vqgan(config)
            if config.weights:
                load_strictly(own, read_state(config.weights), config.weights)
        else:
            self.networks["codeformer"] = own = CodeFormer(config)
            self.networks["target"] = target = Tokenizer(config)
            load_codeformer(own, target, config, stage)
        self.networks["discriminator"] = discriminator = Discriminator(config.discriminator_channels)
        if config.discriminator_weights:
            path = config.discriminator_weights
            load_strictly(discriminator, read_state(path, DISCRIMINATOR_OPTION), path, DISCRIMINATOR_OPTION)
        if stage.name == "codes":  # what no loss reaches there
            own.fuse_convs_dict.requires_grad_(False)
            discriminator.requires_grad_(False)
        elif config.perceptual_weight and config.vgg_weights and config.lpips_weights:
            self.networks["lpips"] = load_lpips(config.vgg_weights, config.lpips_weights)
        return self.networks

    def carried(self, stage: Stage, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `carried_over`."""
        own = self.networks.state_dict()
        found = carried_over(self.config, stage.name, state)
        return {name: value for name, value in found.items() if name in own}

    def moves(self, player: Player, step: int) -> bool:
        """The discriminator moves in steps with pictures alone, once it takes part; the others in all."""
        return super().moves(player, step) and (player.name != "discriminator" or self._is_adversarial(step))

    def prepare(self, stage: Stage, row: Row, draw: np.random.Generator | None) -> dict[str, Any]:
        """See `prepare_face`."""
        return prepare_face(row, stage.name, self.config, draw)

    def losses(self, player: str, batch: Batch, step: int) -> dict[str, Term]:
        """Terms of one micro-batch of uint8 pictures `(B, 3, S, S)`.

        In steps in which the discriminator moves, the player before it leaves its pictures in
        `batch["reconstruction"]`: they are not made a second time.

        Raises:
            UserError: LPIPS counts and its files are not given, or nothing has filled the targets' VQGAN.
        """
        if player == "discriminator":
            return discriminator_terms(self.networks[player], signed(batch["clean"]), batch["reconstruction"])
        return self._vqgan_terms(batch, step) if player == "vqgan" else self._codeformer_terms(batch, step)

    def _vqgan_terms(self, batch: Batch, step: int) -> dict[str, Term]:
        network, clean = self.networks["vqgan"], signed(batch["clean"])
        output, quantized = network(clean)
        if self._is_adversarial(step):
            batch["reconstruction"] = output.detach()
        last = network.generator.blocks[-1].weight
        terms = picture_terms(output, clean, self._critics(step, last, self.config.vqgan_gan_weight))
        return terms | {"codebook": Term.mean(quantized.loss), "perplexity": Term.mean(quantized.perplexity, 0.0)}

    def _codeformer_terms(self, batch: Batch, step: int) -> dict[str, Term]:
        network, target = self.networks["codeformer"], self.networks["target"]
        if not self._target_is_checked and is_real(target.quantize.embedding.weight):
            check_filled(target, self._stage)
            self._target_is_checked = True
        phase, clean = phase_at(self._stage, step, self.config), signed(batch["clean"])
        prediction = network.predict(signed(batch[phase.given]))
        terms = code_terms(network, prediction, target(clean))
        if not phase.fidelity:
            code_feature = terms["code_feature"]
            return terms | {"code_feature": replace(code_feature, sum=code_feature.sum + resting(network))}
        output = network.generate(prediction, phase.fidelity, adain=False)
        if self._is_adversarial(step):
            batch["reconstruction"] = output.detach()
        critics = self._critics(step, network.last_parameter, self.config.features_gan_weight)
        return terms | picture_terms(output, clean, critics)

    def _is_adversarial(self, step: int) -> bool:
        return is_adversarial(self._stage, step, self.config)

    def _critics(self, step: int, parameter: nn.Parameter, gan_weight: float) -> Critics:
        config = self.config
        if config.perceptual_weight and "lpips" not in self.networks:
            lpips_files(config.vgg_weights, config.lpips_weights, WITHOUT_LPIPS)
        return Critics(
            lpips=self.networks["lpips"] if config.perceptual_weight else None,
            perceptual_weight=config.perceptual_weight,
            discriminator=self.networks["discriminator"] if self._is_adversarial(step) else None,
            parameter=parameter,
            gan_weight=gan_weight,
        )

    def published_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The names of the published checkpoints: no prefix, nothing of target, discriminator and LPIPS."""
        return published(state)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """What PSNR and SSIM compare, uint8 `(B, 3, S, S)`: `restored` and `reference`; `input` is what was restored.

        In stage vqgan that is the clean face.
        """
        given = batch[EVALUATED[self._stage]]
        return {"input": given, "restored": self.restore(given), "reference": batch["clean"]}

    def restore(self, pictures: Picture, fidelity: float | None = None) -> Picture:
        """Restored aligned faces of the kind and size that was given (see `through`); levels are rounded.

        Faces are resized (bilinear) to the side that the network knows and back, so larger ones lose detail, and those
        that are not square are stretched for it.  A network of stage vqgan takes them through its codebook; one that
        fills holes changes what is pure white, and nothing else.

        Args:
            fidelity: 0 (best looking) to 1 (most faithful); None is that of the settings, and 0 after a stage that
                trains no connections.

        Raises:
            UserError: not a picture, values outside [0, 1], or a negative fidelity.
        """
        if fidelity is None and self._stage in FIDELITY:
            own = self.config.fidelity
            fidelity = FIDELITY[self._stage] if own is None else own
        (restored,) = self.restore_at(pictures, [fidelity or 0.0])
        return restored

    def restore_at(self, pictures: Picture, fidelities: Sequence[float]) -> list[Picture]:
        """The same faces with several weights of fidelity, looked at once: each is what `restore` gives with it.

        Encoder and transformer do not depend on the weight, so each further one costs the generator alone.

        Raises:
            UserError: as `restore`.
        """
        for fidelity in fidelities:
            check_number("fidelity", fidelity, 0)
        if self._stage == "vqgan":
            return [through(pictures, self._reconstructed) for _ in fidelities]
        seen: list[Prediction] = []

        @torch.no_grad()
        def restored(fidelity: float, given: Tensor) -> Tensor:
            if not seen:
                seen.append(self.networks["codeformer"].predict(self._network_input(given)))
            return self._generated(seen[0], fidelity, given)

        return [through(pictures, partial(restored, one)) for one in fidelities]

    def _network_input(self, pictures: Tensor) -> Tensor:
        """Fractions `(B, 3, H, W)` in [0, 1] as `(B, 3, size, size)` in [-1, 1] on the device of the networks."""
        device = next(self.networks.parameters()).device
        return resized(pictures.to(device), (self.config.size, self.config.size)) * 2 - 1

    def _generated(self, prediction: Prediction, fidelity: float, given: Tensor) -> Tensor:
        fills_holes = self._stage == "inpainting"
        output = self.networks["codeformer"].generate(prediction, fidelity, adain=not fills_holes)
        restored = resized(as_fractions(output), given.shape[2:])
        if not fills_holes:
            return restored
        given = given.to(restored.device)
        return torch.where((given == 1).all(1, keepdim=True), restored, given)

    @torch.no_grad()
    def _reconstructed(self, pictures: Tensor) -> Tensor:
        output, _ = self.networks["vqgan"](self._network_input(pictures))
        return resized(as_fractions(output), pictures.shape[2:])


def resized(pictures: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear without antialiasing, as the published code; `(B, C, H, W)` to `(B, C, *size)`."""
    if tuple(pictures.shape[2:]) == tuple(size):
        return pictures
    return functional.interpolate(pictures, size=tuple(size), mode="bilinear", align_corners=False)


SYSTEM = CodeformerSystem
