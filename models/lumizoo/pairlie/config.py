"""Settings of PairLIE.  Defaults are the published code's (card pairlie, Network, Losses, Training and Inference)."""

from __future__ import annotations

from dataclasses import dataclass

from lumiray.errors import check_number

LEAST_CROP = 3  # smoothness compares pixels at a distance of two


@dataclass(frozen=True)
class PairlieConfig:
    """Which network is trained from which weights, on which crops of how many exposures, and how bright it makes."""

    width: int = 64
    """Channels between the convolutions of each of the three stacks (card pairlie, Network)."""
    weights: str | None = None
    """File of weights to start from or to use, such as a published checkpoint (.pth, .pt, .safetensors)."""
    crop_size: int = 128
    """Side of training crops in pixels (card pairlie, Training)."""
    exposures: int = 2
    """Pictures of a scene that are compared in one step; with more than two, the mean over all pairs is taken."""
    consistency_weight: float = 1.0
    """Weight of the squared difference of two reflectances (card pairlie, Losses)."""
    retinex_weight: float = 1.0
    """Weight of the four terms of the Retinex loss (card pairlie, Losses)."""
    projection_weight: float = 500.0
    """Weight of the squared difference of picture and projected picture (card pairlie, Losses)."""
    exponent: float = 0.2
    """Power of the illumination in use, not training; smaller is brighter, 0.14 for LOL (card pairlie, Inference)."""

    def __post_init__(self) -> None:
        """Refuse numbers that no part of the training could use, by option.

        Raises:
            UserError: names the option, its value, and what is allowed.
        """
        check_number("width", self.width, 1)
        check_number("crop-size", self.crop_size, LEAST_CROP)
        check_number("exposures", self.exposures, 2)
        for name in ("consistency_weight", "retinex_weight", "projection_weight", "exponent"):
            check_number(name.replace("_", "-"), getattr(self, name), 0)


CONFIG = PairlieConfig
