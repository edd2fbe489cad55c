"""The two terms that stand in for a clean picture (card zs-n2n, Loss)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lumizoo.blocks.pairs import pair
from lumizoo.zs_n2n.network import NoiseNetwork


@dataclass(frozen=True)
class PairLoss:
    """Both terms for each of N pictures, and what they compare; everything carries gradient.

    Args:
        residual: (N,), the denoised half against the other noisy half, over the blocks that are seen.
        consistency: (N,), denoised then halved against halved then denoised.
        held_out: (N,), the residual term over the other blocks, without gradient; None where all are seen.
        predicted: (2, N * C, H // 2, W // 2), the denoised halves, anti-diagonal first; not clamped.
        halved: of the same shape, the halves of the denoised picture; not clamped.
    """

    residual: Tensor
    consistency: Tensor
    held_out: Tensor | None
    predicted: Tensor
    halved: Tensor

    @property
    def total(self) -> Tensor:
        """(N,), the sum of both terms with equal weight."""
        return self.residual + self.consistency


def halves_of(pictures: Tensor) -> Tensor:
    """(1, N * C, H, W) -> (2, N * C, H // 2, W // 2): both halves as a batch, for the network takes them alike."""
    return torch.cat(pair(pictures))


def pair_loss(network: NoiseNetwork, noisy: Tensor, halves: Tensor, seen: Tensor | None = None) -> PairLoss:
    """Both terms of one step.

    Args:
        network: of as many copies as there are pictures.
        noisy: (1, N * C, H, W), the pictures side by side, in [0, 1] but for the noise.
        halves: (2, N * C, H // 2, W // 2), `halves_of(noisy)`, which stays the same over all steps.
        seen: (H // 2, W // 2), 1 for blocks that the residual term sees and 0 for those held out.
    """
    predicted = halves - network(halves)
    halved = halves_of(noisy - network(noisy))
    # crosswise: each denoised half against the other noisy one
    errors = (halves.flip(0) - predicted).square()
    held_out = None
    if seen is None:
        residual = _means(errors, network.copies)
    else:
        residual = _means(errors * seen, network.copies) / seen.mean()
        with torch.no_grad():
            held_out = _means(errors * (1 - seen), network.copies) / (1 - seen).mean()
    consistency = _means((predicted - halved).square(), network.copies)
    return PairLoss(residual, consistency, held_out, predicted, halved)


def _means(errors: Tensor, copies: int) -> Tensor:
    """(2, N * C, h, w) -> (N,): half the sum of the two halves' means."""
    return errors.unflatten(1, (copies, -1)).mean((0, 2, 3, 4))
