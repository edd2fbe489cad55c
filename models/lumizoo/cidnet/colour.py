"""HVI, a colour space with one trained number, and back to RGB (card cidnet, Colour space).

Everything is computed in fp32: the steps of 1e-8 below vanish in 16 bit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

EPS = 1e-8


class Hvi(nn.Module):
    """The transform to (H, V, I), and its inverse with the exponent of the last forward call."""

    def __init__(self) -> None:
        super().__init__()
        self.density_k = nn.Parameter(torch.full((1,), 0.2))  # the reciprocal of the paper's k
        # The inverse sees k as a plain number: no gradient, no entry in checkpoints.  It is kept on the device,
        # for reading it as a Python float would wait for the GPU at every step and fail in a rehearsal.
        self.last_k: Tensor | float = 0.0

    def forward(self, rgb: Tensor) -> Tensor:
        """RGB in [0, 1] `(B, 3, H, W)` to (H, V, I): H and V in [-1, 1], I in [0, 1]; fp32."""
        rgb = rgb.float()
        k = self.density_k.float()
        self.last_k = k.detach().clone()
        largest, smallest = rgb.amax(1), rgb.amin(1)
        spread = largest - smallest
        turn = 2 * math.pi * _hue(rgb, largest, spread)
        saturation = torch.where(largest == 0, 0.0, spread / (largest + EPS))
        radius = _density(largest, k) * saturation
        return torch.stack((radius * turn.cos(), radius * turn.sin(), largest), 1)

    def inverse(self, hvi: Tensor, alpha_s: float = 1.0, alpha: float = 1.0) -> Tensor:
        """(H, V, I) `(B, 3, H, W)`, clamped to its range, to RGB in [0, alpha]; fp32.

        Args:
            alpha_s: factor of saturation.
            alpha: factor of the result.
        """
        hvi = hvi.float()
        value = hvi[:, 2].clamp(0, 1)
        density = _density(value, torch.as_tensor(self.last_k, dtype=hvi.dtype, device=hvi.device))
        horizontal, vertical = ((one.clamp(-1, 1) / (density + EPS)).clamp(-1, 1) for one in (hvi[:, 0], hvi[:, 1]))
        hue = torch.atan2(vertical + EPS, horizontal + EPS) / (2 * math.pi) % 1
        saturation = (horizontal.square() + vertical.square() + EPS).sqrt()
        return _hsv_to_rgb(hue, (saturation * alpha_s).clamp(0, 1), value) * alpha


def _hue(rgb: Tensor, largest: Tensor, spread: Tensor) -> Tensor:
    """Hue in turns; on ties red wins over green, green over blue, and grey has 0."""
    red, green, blue = rgb.unbind(1)
    divisor = spread + EPS
    sixths = 4 + (red - green) / divisor
    sixths = torch.where(green == largest, 2 + (blue - red) / divisor, sixths)
    sixths = torch.where(red == largest, (green - blue) / divisor % 6, sixths)
    return torch.where(spread == 0, 0.0, sixths) / 6


def _density(value: Tensor, k: Tensor) -> Tensor:
    """How far from the axis full saturation lies at an intensity: dark colours lie near to it."""
    return ((value * (math.pi / 2)).sin() + EPS) ** k


def _hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Hue in turns, saturation and value in [0, 1], each `(B, H, W)`, to RGB `(B, 3, H, W)` in [0, 1]."""
    whole = (6 * hue).floor()
    part = 6 * hue - whole
    low = value * (1 - saturation)
    falling, rising = value * (1 - part * saturation), value * (1 - (1 - part) * saturation)
    # A hue just below 0 becomes 1.0 in fp32, the sixth sector, which the published code leaves black: it is red.
    sector = whole % 6
    columns = {
        "red": (value, falling, low, low, rising, value),
        "green": (rising, value, value, falling, low, low),
        "blue": (low, low, rising, value, value, falling),
    }
    channels = []
    for column in columns.values():
        channel = column[5]
        for number in range(5):
            channel = torch.where(sector == number, column[number], channel)
        channels.append(channel)
    return torch.stack(channels, 1)
