"""Settings of CodeFormer.  Defaults are the published code's (card codeformer, Network, Losses and Training)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lumiray.errors import UserError, check_number

GROUPS = 32  # of every group norm (card codeformer, Network)
LEAST_SIZE = 48  # of which the discriminator sees one patch


@dataclass(frozen=True)
class CodeformerConfig:
    """How large the networks are, from which weights they start, on what they are trained, how they are used."""

    task: Literal["restoration", "colourisation", "inpainting"] = "restoration"
    """What is learnt after the autoencoder: which stages there are, and what they see (card codeformer, Training)."""
    channels: int = 64
    """Width of the VQGAN at full size (card codeformer, Network)."""
    multipliers: tuple[int, ...] = (1, 2, 2, 4, 4, 8)
    """Factors of that width at full size, half size and so on; as many sizes as factors (card codeformer, Network)."""
    size: int = 512
    """Side of the faces in pixels: those of training, and what every face is resized to in use."""
    codebook_size: int = 1024
    """Number of codes; 512 in the published weights for inpainting (card codeformer, Checkpoint layout)."""
    code_width: int = 256
    """Numbers of a code (card codeformer, Network)."""
    transformer_width: int = 512
    """Width of the transformer that predicts codes (card codeformer, Network)."""
    transformer_heads: int = 8
    """Its attention heads (card codeformer, Network)."""
    transformer_layers: int = 9
    """Its layers (card codeformer, Network)."""
    connections: tuple[int, ...] = (32, 64, 128, 256)
    """Sides of the features that the encoder hands to the generator; colourisation and inpainting: 32 64 128."""
    discriminator_channels: int = 64
    """Width of the discriminator after its first convolution (card codeformer, Network)."""
    weights: str | None = None
    """File of the stage's network to start from or to use (.pth); codes and inpainting take that of vqgan, too."""
    vqgan_weights: str | None = None
    """File of stage vqgan (vqgan_code1024.pth), whose codes are targets, where --weights are not that file."""
    discriminator_weights: str | None = None
    """File of the discriminator of stage vqgan (vqgan_discriminator.pth); without it a new one learns."""
    vgg_weights: str | None = None
    """File of torchvision's VGG-16 (VGG16_Weights.IMAGENET1K_V1) for the perceptual term."""
    lpips_weights: str | None = None
    """File of the linear layers of LPIPS 0.1 for VGG-16 (vgg.pth of the package lpips) for the perceptual term."""
    perceptual_weight: float = 1.0
    """Weight of LPIPS in stages vqgan and features; 0 does without it, and results blur (card codeformer, Losses)."""
    vqgan_gan_weight: float = 0.8
    """Factor of the adaptive weight of the adversarial term in stage vqgan (card codeformer, Losses)."""
    vqgan_gan_start: int = 30_001
    """First step of stage vqgan with the adversarial term and the discriminator (card codeformer, Training)."""
    features_gan_weight: float = 0.1
    """The same in stages features and inpainting (card codeformer, Losses)."""
    features_gan_start: int = 5_001
    """First step of stage features with the adversarial term and the discriminator (card codeformer, Training)."""
    inpainting_gan_start: int = 296_001
    """First step of stage inpainting with the adversarial term and the discriminator (card codeformer, Training)."""
    faithful_until: int = 40_000
    """Last iteration of stage features with slight degradation and fidelity 1 (card codeformer, Training)."""
    exaggerated_until: int = 80_000
    """Last iteration of stage features with slight degradation and fidelity 1.3 (card codeformer, Training)."""
    codes_until: int = 120_000
    """Last iteration of stage features on codes alone; then every 15th has a picture (card codeformer, Training)."""
    narrow_until: int = 200_000
    """Last iteration of stage inpainting with narrow strokes; wide ones follow (card codeformer, Data)."""
    crop: bool = False
    """Train on a random square of each picture, for photographs that are no aligned faces; not published."""
    fidelity: float | None = None
    """Weight of the encoder's features in use, 0 best looking, 1 most faithful; none: 0.5, to fill holes 1."""

    def __post_init__(self) -> None:
        """Refuse numbers that no part of the training could use, by option.

        Raises:
            UserError: names the option, its value, and what is allowed.
        """
        for name in ("channels", "code_width", "transformer_width", "transformer_heads", "transformer_layers"):
            check_number(name.replace("_", "-"), getattr(self, name), 1)
        for name in ("codebook_size", "discriminator_channels"):
            check_number(name.replace("_", "-"), getattr(self, name), 1)
        for name in ("perceptual_weight", "vqgan_gan_weight", "features_gan_weight", "fidelity"):
            check_number(name.replace("_", "-"), getattr(self, name), 0)
        for name in ("vqgan_gan_start", "features_gan_start", "inpainting_gan_start"):
            check_number(name.replace("_", "-"), getattr(self, name), 0)
        for name in ("faithful_until", "exaggerated_until", "codes_until", "narrow_until"):
            check_number(name.replace("_", "-"), getattr(self, name), 0)
        for factor in self.multipliers:
            check_number("multipliers", factor, 1)
        if not self.multipliers:
            raise UserError("--multipliers is empty; give one factor for each size.")
        if self.channels % GROUPS:
            raise UserError(f"--channels is {self.channels}; it must be a multiple of {GROUPS}, the groups of a norm.")
        if self.transformer_width % self.transformer_heads:
            raise UserError(
                f"--transformer-heads {self.transformer_heads} does not divide --transformer-width "
                f"{self.transformer_width}."
            )
        check_number("size", self.size, LEAST_SIZE)
        if self.size % self.reduction:
            raise UserError(
                f"--size is {self.size}; it must be a multiple of {self.reduction}, by which {len(self.multipliers)} "
                "--multipliers make it smaller."
            )
        for side in self.connections:
            if side not in self.sides:
                raise UserError(
                    f"--connections {side}: faces of --size {self.size} have features of the sides "
                    f"{', '.join(map(str, self.sides))}."
                )
        if not self.connections:
            raise UserError("--connections is empty; name at least one side, for stage features trains nothing else.")
        if not self.faithful_until <= self.exaggerated_until <= self.codes_until:
            raise UserError(
                f"--faithful-until {self.faithful_until}, --exaggerated-until {self.exaggerated_until} and "
                f"--codes-until {self.codes_until} must not fall: they are the ends of three periods."
            )

    @property
    def reduction(self) -> int:
        """How many pixels of a side become one token."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def sides(self) -> tuple[int, ...]:
        """Side of the features of every level, the largest first."""
        return tuple(self.size // 2**level for level in range(len(self.multipliers)))


CONFIG = CodeformerConfig
