"""The best that one curve can do for all dark pictures: `gain * x ** gamma`, fitted on the training photographs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

LEVELS = np.arange(256) / 255
GAMMAS, GAINS = np.arange(0.3, 1.6, 0.01), np.arange(0.5, 8.0, 0.02)


@dataclass(frozen=True)
class Curve:
    """A gain and a gamma; results are clipped to the levels that there are."""

    gain: float
    gamma: float

    def of(self, picture: np.ndarray) -> np.ndarray:
        """The brightened picture, uint8 like the dark one."""
        bright: np.ndarray = (255 * brightened(self.gain, self.gamma)).round().astype(np.uint8)[picture]
        return bright


def brightened(gain: float | np.ndarray, gamma: float) -> np.ndarray:
    """What becomes of each of the 256 levels, in [0, 1]; (256,), or (n, 256) for n gains `(n, 1)`."""
    found: np.ndarray = np.clip(gain * LEVELS**gamma, 0, 1)
    return found


def fitted(pairs: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> Curve:
    """The curve of least squared error over every pixel of some (name, dark, bright), of all on a fine grid."""
    count, total = np.zeros(256), np.zeros(256)  # of bright values, by the dark level that stands at their place
    for _, dark, bright in pairs:
        count += np.bincount(dark.ravel(), minlength=256)
        total += np.bincount(dark.ravel(), weights=bright.ravel() / 255, minlength=256)
    best, least = Curve(1.0, 1.0), np.inf
    for gamma in GAMMAS:
        curves = brightened(GAINS[:, None], gamma)
        errors = (curves**2) @ count - 2 * curves @ total  # and a sum of squares that all curves share
        if errors.min() < least:
            best, least = Curve(float(GAINS[errors.argmin()]), float(gamma)), errors.min()
    return best
