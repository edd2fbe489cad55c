"""Losses as functions of tensors; pictures are in [-1, 1] (card codeformer, Losses)."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

CODEBOOK_SHARE = 0.25  # in the published code it weighs the codebook's own term; in the paper the other one
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = 1e-4


def perceptual_loss(lpips: nn.Module, output: Tensor, reference: Tensor) -> Tensor:
    """LPIPS of pictures `(B, 3, H, W)`, a scalar, normalised twice as published.

    They are normalised for ImageNet, and then by LPIPS again, which expects them in [-1, 1].
    """
    mean, std = (
        torch.tensor(one, dtype=output.dtype, device=output.device).view(3, 1, 1)
        for one in (IMAGENET_MEAN, IMAGENET_STD)
    )
    normal = [((pictures + 1) / 2 - mean) / std for pictures in (output, reference)]
    return lpips(*normal).mean()


def generator_loss(fake_scores: Tensor) -> Tensor:
    """What the generator is told by scores of its pictures, a scalar."""
    return -fake_scores.mean()


def real_loss(scores: Tensor) -> Tensor:
    """Hinge on scores of real pictures, a scalar: nothing above 1."""
    return functional.relu(1 - scores).mean()


def fake_loss(scores: Tensor) -> Tensor:
    """Hinge on scores of generated pictures, a scalar: nothing below -1."""
    return functional.relu(1 + scores).mean()


def codebook_loss(latents: Tensor, codes: Tensor, share: float = CODEBOOK_SHARE) -> Tensor:
    """Latents move to their codes, codes by a share to their latents; both `(B, C, h, w)`, the result a scalar."""
    commitment = functional.mse_loss(latents, codes.detach())
    return commitment + share * functional.mse_loss(codes, latents.detach())


def perplexity(indices: Tensor, codebook_size: int) -> Tensor:
    """How many codes are in use if all are equally often, a scalar without gradient, of numbers of any shape."""
    numbers = torch.arange(codebook_size, device=indices.device)
    share = (indices.reshape(-1, 1) == numbers).float().mean(0)
    return (-(share * (share + 1e-10).log()).sum()).exp()


def code_feature_loss(latents: Tensor, codes: Tensor) -> Tensor:
    """Latents of the degraded face move to the codes of the clean one; `(B, C, h, w)`, a scalar."""
    return functional.mse_loss(latents, codes.detach())


def code_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over tokens, a scalar, of logits `(B, T, codes)` and numbers `(B, T)`."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, parameter: nn.Parameter) -> Tensor:
    """How much the adversarial loss counts: as the gradients of both losses at a parameter compare, in [0, 1].

    Taken before the backward pass of the total, whose graph stays.  Each process has its own.

    Args:
        reconstruction, adversarial: scalars whose graph contains the parameter.

    Returns:
        A scalar without gradient.
    """
    norms = [
        torch.autograd.grad(loss, parameter, retain_graph=True)[0].float().norm()
        for loss in (reconstruction, adversarial)
    ]
    return (norms[0] / (norms[1] + SMALL)).clamp(0, 1).detach()
