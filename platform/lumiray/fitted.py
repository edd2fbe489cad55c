"""The contract of a system without training: a small network is fitted to each picture by itself, then thrown away.

A package with a `fit.py` offers `FIT = ...` there, a `Fit` as below, and `CONFIG = ...` in its `config.py`.  The
platform knows where pictures come from and go to, and on which cores; the system knows what is fitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # names are looked up without torch
    from torch import Tensor


class Fitted(Protocol):
    """What a fit leaves of one picture."""

    @property
    def restored(self) -> Tensor:
        """(C, H, W), fp32 in [0, 1]."""

    @property
    def noise_level(self) -> float:
        """Standard deviation of what was taken away, on the scale of [0, 1]."""

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The fitted network under its published names."""


class Fit(Protocol):
    """Fits a network of its own to each of some pictures of one size."""

    def __call__(self, pictures: Tensor, config: Any = None) -> Sequence[Fitted]:
        """One result per picture, the same as for that picture alone.

        Args:
            pictures: (N, C, H, W), fp32 in [0, 1]; C is 3 in RGB order or 1.
            config: an instance of the system's configuration class.

        Raises:
            ValueError: pictures that cannot be fitted; the message says why.
        """
