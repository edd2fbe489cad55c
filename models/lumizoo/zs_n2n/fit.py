"""Fitting: a fresh network per picture, a descent on that picture alone, its noise taken out (card zs-n2n, Training).

On CPUs equal seeds give equal pictures, whatever the state of torch's own generators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lumizoo.zs_n2n.config import ZsN2nConfig
from lumizoo.zs_n2n.losses import halves_of, pair_loss
from lumizoo.zs_n2n.network import NoiseNetwork


@dataclass(frozen=True)
class Fitted:
    """What a fit leaves of one picture.

    Args:
        restored: (C, H, W), fp32 in [0, 1], on the picture's device.
        noise_level: standard deviation of the noise that was found, on the scale of the picture's values.
        losses: (T,), fp32, the loss before each of the T steps that were taken.
        weights: the fitted network under the published names (`NoiseNetwork(C).load_state_dict` takes them).
    """

    restored: Tensor
    noise_level: float
    losses: Tensor
    weights: dict[str, Tensor]


def fit(picture: Tensor, config: ZsN2nConfig | None = None) -> Fitted:
    """Take the noise out of one picture.

    Args:
        picture: (C, H, W), floating, in [0, 1]; C is 3 in RGB order, 1 for grey, or any other number.
        config: published settings if None.

    Raises:
        ValueError: another shape or kind of numbers, values far from [0, 1] or not finite, a side shorter than 2 (than
            4 with `patience`).
    """
    if picture.ndim != 3:
        raise ValueError(f"a picture is (C, H, W), not {tuple(picture.shape)}")
    return fit_many(picture[None], config)[0]


def fit_many(pictures: Tensor, config: ZsN2nConfig | None = None) -> list[Fitted]:
    """Take the noise out of pictures of one size at once, with a network for each: what `fit` gives for each alone.

    It takes the memory of all of them.  On one core four of 32 x 32 or 64 x 64 took 15 to 20 % less time so.

    Args:
        pictures: (N, C, H, W), as in `fit`.
        config: published settings if None; its seed is that of every picture.

    Raises:
        ValueError: as `fit`.
    """
    config = config or ZsN2nConfig()
    _check(pictures)
    with torch.inference_mode(False), torch.enable_grad():  # a caller may have turned gradients off
        count, channels, height, width = pictures.shape
        noisy = pictures.detach().float().clone(memory_format=torch.contiguous_format)
        noisy = noisy.view(1, count * channels, height, width)
        network = NoiseNetwork(channels, copies=count).to(noisy.device)
        network.draw(config.seed)
        losses = descend(network, noisy, config)
        with torch.no_grad():
            noise = network(noisy)
        restored = (noisy - noise).clamp(0, 1).view_as(pictures)
        levels = noise.view(count, -1).std(1, correction=0).tolist()
        weights = {name: value.detach() for name, value in network.state_dict().items()}
    return [
        Fitted(restored[number], levels[number], losses[number], network.copy_of(weights, number))
        for number in range(count)
    ]


def descend(network: NoiseNetwork, noisy: Tensor, config: ZsN2nConfig) -> list[Tensor]:
    """Fit a network's copies, each to its picture, from the weights that they have.

    Args:
        noisy: (1, N * C, H, W), fp32, the pictures side by side.

    Returns:
        for each of the N pictures the loss before each step that was taken, (T,).
    """
    weights = list(network.parameters())
    optimizer = torch.optim.Adam(weights, config.lr)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, config.halve_every, 0.5)
    halves = halves_of(noisy)
    seen = _seen(halves, config) if config.patience else None
    best = _Best(weights, network.copies, config.patience)
    mean = [torch.zeros_like(one) for one in weights]
    course = []
    for step in range(config.steps):
        loss = pair_loss(network, noisy, halves, seen)
        course.append(loss.total.detach())
        if loss.held_out is not None and best.all_ended(step, loss.held_out):
            break
        optimizer.zero_grad()
        loss.total.sum().backward()  # copies share no weight: each gets the gradient of its own loss
        optimizer.step()
        schedule.step()
        if step >= config.steps - config.average_last:
            torch._foreach_add_(mean, [one.detach() for one in weights], alpha=1 / config.average_last)
    if config.average_last:
        _assign(weights, mean)
    if config.patience:
        _assign(weights, best.weights)
    losses = torch.stack(course, 1)
    lengths = best.taken(len(course)) if config.patience else [len(course)] * network.copies
    return [one[:length] for one, length in zip(losses, lengths, strict=True)]


class _Best:
    """The weights of each copy at its smallest loss on held-out blocks, until that has not fallen for long."""

    def __init__(self, weights: Sequence[Tensor], copies: int, patience: int) -> None:
        self._current, self._patience = weights, patience
        self.weights = [one.detach().clone() for one in weights]
        self._least = weights[0].new_full((copies,), torch.inf).detach()
        self._at = torch.zeros(copies, dtype=torch.long, device=weights[0].device)
        self._end = torch.full_like(self._at, -1)  # the step at which a copy ended, -1 while it goes on

    def all_ended(self, step: int, held_out: Tensor) -> bool:
        """Look at the weights before a step: keep those that are better than all before; whether no copy goes on."""
        better = (held_out < self._least) & (self._end < 0)
        self._least = torch.where(better, held_out, self._least)
        self._at = torch.where(better, step, self._at)
        for kept, now in zip(self.weights, self._current, strict=True):
            rows = better.repeat_interleave(len(now) // len(better))
            kept[rows] = now.detach()[rows]
        waited = (step - self._at >= self._patience) & (self._end < 0)
        self._end = torch.where(waited, step, self._end)
        return bool((self._end >= 0).all())

    def taken(self, most: int) -> list[int]:
        """How many losses belong to each copy, of `most` that were computed."""
        return [most if end < 0 else end + 1 for end in self._end.tolist()]


def _seen(halves: Tensor, config: ZsN2nConfig) -> Tensor:
    """(H // 2, W // 2): 0 for the share of blocks that is held out, at least one and never all, 1 for the others."""
    height, width = halves.shape[-2:]
    if min(height, width) < 2:
        raise ValueError("a picture with a side shorter than 4 has too few blocks to hold some out")
    count = min(max(1, round(config.held_out * height * width)), height * width - 1)
    generator = torch.Generator().manual_seed(config.seed)
    seen = torch.ones(height * width)
    seen[torch.randperm(height * width, generator=generator)[:count]] = 0
    return seen.view(height, width).to(halves.device)


def _assign(weights: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for one, value in zip(weights, values, strict=True):
            one.copy_(value)


def _check(pictures: Tensor) -> None:
    if pictures.ndim != 4 or 0 in pictures.shape:
        raise ValueError(f"pictures are (N, C, H, W), not {tuple(pictures.shape)}")
    if not pictures.is_floating_point():
        raise ValueError(f"pictures are floating numbers in [0, 1], not {pictures.dtype}")
    if min(pictures.shape[2:]) < 2:
        raise ValueError(f"{pictures.shape[3]} x {pictures.shape[2]} pixels are too few: a block has 2 x 2")
    low, high = pictures.aminmax()
    # without clipping, noise reaches beyond [0, 1]; a picture on the scale of 255 is a mistake that would train badly
    if not (low >= -2 and high <= 3):
        raise ValueError(f"pictures are in [0, 1]; the values here go from {low:.3g} to {high:.3g}")


FIT = fit_many
