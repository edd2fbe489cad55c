"""What each stage is trained on: networks and pictures to named terms (card codeformer, Losses and Training)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from lumiray.system import Term
from lumizoo.codeformer.losses import (
    adaptive_weight,
    code_cross_entropy,
    code_feature_loss,
    fake_loss,
    generator_loss,
    perceptual_loss,
    real_loss,
)
from lumizoo.codeformer.network import CodeFormer, Prediction

CROSS_ENTROPY_WEIGHT = 0.5


@dataclass(frozen=True)
class Critics:
    """What else than pixels a picture is judged by.

    Args:
        lpips: the perceptual distance, or None.
        perceptual_weight: of it.
        discriminator: None before it takes part.
        parameter: where gradients of both losses are compared.
        gan_weight: what the adversarial term is multiplied with besides the adaptive weight.
    """

    lpips: nn.Module | None
    perceptual_weight: float
    discriminator: nn.Module | None
    parameter: nn.Parameter
    gan_weight: float


def picture_terms(output: Tensor, reference: Tensor, critics: Critics) -> dict[str, Term]:
    """Terms of pictures in [-1, 1] `(B, 3, H, W)`: `l1`, `perceptual`, `adversarial`, and its adaptive weight."""
    reconstruction = functional.l1_loss(output, reference)
    terms = {"l1": Term.mean(reconstruction)}
    if critics.lpips is not None:
        perceptual = perceptual_loss(critics.lpips, output, reference)
        terms["perceptual"] = Term.mean(perceptual, critics.perceptual_weight)
        reconstruction = reconstruction + critics.perceptual_weight * perceptual
    if critics.discriminator is not None:
        adversarial = generator_loss(critics.discriminator(output))
        weight = adaptive_weight(reconstruction, adversarial, critics.parameter)
        terms["adversarial"] = Term.mean(weight * adversarial, critics.gan_weight)
        terms["adaptive_weight"] = Term.mean(weight, 0.0)
    return terms


def code_terms(network: CodeFormer, prediction: Prediction, targets: Tensor) -> dict[str, Term]:
    """Terms of codes, and the share of tokens whose likeliest code is the wanted one.

    Args:
        targets: codes of the clean face, int64 `(B, T)`.
    """
    wanted = network.quantize.looked_up(targets, prediction.latents.shape[2:]).float()
    accuracy = (prediction.logits.argmax(2) == targets).float().mean()
    return {
        "code_feature": Term.mean(code_feature_loss(prediction.latents, wanted)),
        "cross_entropy": Term.mean(code_cross_entropy(prediction.logits, targets), CROSS_ENTROPY_WEIGHT),
        "code_accuracy": Term.mean(accuracy, 0.0),
    }


def discriminator_terms(discriminator: nn.Module, real: Tensor, fake: Tensor) -> dict[str, Term]:
    """Hinge on real and on generated pictures `(B, 3, H, W)`, each in a forward pass of its own and in full."""
    return {
        "real": Term.mean(real_loss(discriminator(real))),
        "fake": Term.mean(fake_loss(discriminator(fake))),
    }


def resting(network: CodeFormer) -> Tensor:
    """Zero, with a gradient of zero for the connections, to be added to a loss that does not use them.

    Adam moves what has such a gradient by its momentum, and leaves what has none.  Where optimizers keep parameters in
    one piece all have one: so they have it everywhere.  (The published code's framework set gradients to zero, too.)
    """
    return 0.0 * torch.stack([value.sum() for value in network.fuse_convs_dict.parameters()]).sum()


def signed(pictures: Tensor) -> Tensor:
    """Levels uint8 as fp32 in [-1, 1]."""
    return (pictures.float() / 255 - 0.5) / 0.5


@torch.no_grad()
def as_fractions(pictures: Tensor) -> Tensor:
    """What networks give, cut off to [-1, 1], as fractions in [0, 1]."""
    return (pictures.clamp(-1, 1) + 1) / 2
