"""Settings of CLIP training.  Defaults are those of the published runs (card clip, Training) or open_clip's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lumiray.errors import UserError, check_number


@dataclass(frozen=True)
class ClipConfig:
    """What is trained, on which loss, from which weights, on which pictures and captions."""

    model: str = "ViT-B-32"
    """An open_clip model name, or your own model configuration: the path of a .json file, or JSON itself."""
    weights: str | None = None
    """Weights to start from (fine-tuning): an open_clip pretrained tag, or a file (.safetensors, .pt, .bin)."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """softmax as in CLIP or sigmoid as in SigLIP, over the batch of the whole cluster."""
    loss_tile: int = 0
    """Rows of a tile of the memory-bounded loss; 0 chooses it where the logits would pass 1 GiB, -1 never does."""
    mask_duplicates: Literal["none", "identity", "caption"] = "none"
    """Pairs of a batch that are not each other's negatives: those of the same row, or with the same caption."""
    lock_image: bool = False
    """Freeze the image tower."""
    unlock_image_groups: int = 0
    """With --lock-image true: so many of its last layer groups stay trainable."""
    lock_text: bool = False
    """Freeze the text tower."""
    unlock_text_layers: int = 0
    """With --lock-text true: so many of its last layers stay trainable."""
    grad_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more work."""
    patch_dropout: float = 0.0
    """Share of a picture's patches that a ViT leaves out in training (0.5 to 0.75 in published runs)."""
    image_size: int | None = None
    """Side of the pictures in pixels, if not the model's own; position tables are interpolated."""
    context_length: int | None = None
    """Tokens of a caption, if not as many as the model's own."""
    quick_gelu: bool = False
    """The activation that OpenAI's weights need (model names that end in -quickgelu choose it too)."""
    decay_rule: Literal["release-3", "head"] = "release-3"
    """Which parameters escape weight decay: open_clip's release 3, or its later development branch."""
    caption: str = "txt"
    """Where captions are: `txt`, `json:FIELD`, or several with probabilities: `txt=0.5,json:alt=0.5`."""
    crop_scale: tuple[float, float] = (0.9, 1.0)
    """Smallest and largest area of a training crop, as a share of the picture."""
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    """Smallest and largest width over height of a training crop."""
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Strength of random changes of brightness, contrast, saturation and hue (for small sets)."""
    color_jitter_prob: float = 0.8
    """Share of training pictures whose colours change, where --color-jitter is given."""
    grey_prob: float = 0.0
    """Share of training pictures without colour (for small sets)."""
    reduced_decoding: bool = False
    """Decode JPEGs at 1/2, 1/4 or 1/8 of their size where crops get smaller yet (PSNR 48 dB, at worst 46)."""

    def __post_init__(self) -> None:
        """Refuse numbers that no part of the training could use, by option.

        Raises:
            UserError: names the option, its value, and what is allowed.
        """
        check_number("loss-tile", self.loss_tile, -1)
        check_number("image-size", self.image_size, 1)
        check_number("context-length", self.context_length, 3)  # start, one token, end
        check_number("patch-dropout", self.patch_dropout, 0, 0.99)
        check_number("color-jitter-prob", self.color_jitter_prob, 0, 1)
        check_number("grey-prob", self.grey_prob, 0, 1)
        for name, pair, most in (("crop-scale", self.crop_scale, 1.0), ("crop-ratio", self.crop_ratio, math.inf)):
            if not 0 < pair[0] <= pair[1] <= most:
                raise UserError(
                    f"--{name} is {pair}; it must be two rising numbers above 0{' and up to 1' * (most == 1)}."
                )
        for strength, most in zip(self.color_jitter, (math.inf, math.inf, math.inf, 0.5), strict=True):
            check_number("color-jitter", strength, 0, most)
        for locked, name, count in (
            (self.lock_image, "image-groups", self.unlock_image_groups),
            (self.lock_text, "text-layers", self.unlock_text_layers),
        ):
            check_number(f"unlock-{name}", count, 0)
            if count and not locked:
                raise UserError(f"--unlock-{name} needs --lock-{name.partition('-')[0]} true: nothing is locked.")


CONFIG = ClipConfig
