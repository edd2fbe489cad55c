"""Settings of HVI-CIDNet.  Defaults are the published code's (card cidnet, Network, Losses and Training)."""

from __future__ import annotations

from dataclasses import dataclass

from lumiray.errors import UserError, check_number

SIZE_MULTIPLE = 8  # the network halves its pictures three times


@dataclass(frozen=True)
class CidnetConfig:
    """Which network is trained from which weights, on which crops and losses, and how it is used."""

    channels: tuple[int, int, int, int] = (36, 36, 72, 144)
    """Width of both branches at full, half, quarter and eighth size (card cidnet, Network)."""
    heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    """Heads of the cross attention at these sizes; the first is not used (card cidnet, Network)."""
    norm: bool = False
    """Layer norm after every halving and doubling; off in the published network (card cidnet, Network)."""
    weights: str | None = None
    """File of weights to start from or to use, such as a published checkpoint (.pth, .pt, .safetensors)."""
    vgg_weights: str | None = None
    """File of torchvision's VGG-19 (VGG19_Weights.IMAGENET1K_V1); training with the perceptual term needs it."""
    crop_size: int = 256
    """Side of training crops in pixels: 256, in the paper 400 for LOLv1 and LOLv2-real (card cidnet, Training)."""
    l1_weight: float = 1.0
    """Weight of the mean absolute difference (card cidnet, Losses)."""
    ssim_weight: float = 0.5
    """Weight of 1 - SSIM (card cidnet, Losses)."""
    edge_weight: float = 50.0
    """Weight of the squared difference of Laplacians (card cidnet, Losses)."""
    perceptual_weight: float = 0.01
    """Weight of the squared difference of VGG-19 features; 0 does without that network (card cidnet, Losses)."""
    hvi_weight: float = 1.0
    """Weight of all terms in HVI against those in RGB (card cidnet, Losses)."""
    random_gamma: bool = False
    """Raise the dark pictures of a micro-batch to a random power from 0.60 to 1.20 (card cidnet, Training)."""
    alpha_s: float = 1.0
    """Factor of saturation in use, not in training; published figures: 1.3 for LOLv1 (card cidnet, Inference)."""
    alpha: float = 1.0
    """Factor of intensity in use, not in training; published figures: 0.84 for LOLv2-real (card cidnet, Inference)."""
    gamma: float = 1.0
    """Power that dark pictures are raised to in use, not in training (card cidnet, Inference)."""
    pad_multiple: int = SIZE_MULTIPLE
    """Pictures in use are reflected until their sides are multiples of this (card cidnet, Inference)."""

    def __post_init__(self) -> None:
        """Refuse numbers that no part of the training could use, by option.

        Raises:
            UserError: names the option, its value, and what is allowed.
        """
        for width, heads in zip(self.channels, self.heads, strict=True):
            check_number("channels", width, 1)
            check_number("heads", heads, 1)
            if width % heads:
                raise UserError(f"--heads {heads} does not divide --channels {width} of the same place.")
        for name in ("crop_size", "pad_multiple"):
            size = getattr(self, name)
            if size < SIZE_MULTIPLE or size % SIZE_MULTIPLE:
                option = name.replace("_", "-")
                raise UserError(f"--{option} is {size}; it must be a multiple of {SIZE_MULTIPLE}.")
        for name in ("l1_weight", "ssim_weight", "edge_weight", "perceptual_weight", "hvi_weight", "alpha_s", "alpha"):
            check_number(name.replace("_", "-"), getattr(self, name), 0)
        check_number("gamma", self.gamma, 0.01)


CONFIG = CidnetConfig
