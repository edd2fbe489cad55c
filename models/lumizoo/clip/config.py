"""Settings of CLIP training.  Defaults are those of the published runs (card clip, Training) or open_clip's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ClipConfig:
    """What is trained, on which loss, from which weights, on which pictures and captions."""

    model: str = "ViT-B-32"
    """An open_clip model name, or a model configuration: the path of a .json file, or JSON itself."""
    weights: str | None = None
    """Weights to start from: an open_clip pretrained tag, or a file (.safetensors, .pt, .bin)."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """softmax (CLIP) or sigmoid (SigLIP), over the batch of the whole cluster."""
    loss_tile: int = 0
    """Rows of a tile of the memory-bounded loss; 0 takes it where the logits would pass 1 GiB, -1 never."""
    mask_duplicates: Literal["none", "identity", "caption"] = "none"
    """Rows of a batch that are not each other's negatives: the same row again, or the same caption."""
    lock_image: bool = False
    """Freeze the image tower."""
    unlock_image_groups: int = 0
    """Last layer groups of a locked image tower that stay trainable."""
    lock_text: bool = False
    """Freeze the text tower."""
    unlock_text_layers: int = 0
    """Last layers of a locked text tower that stay trainable."""
    grad_checkpointing: bool = False
    """Recompute activations in backward: less memory, a third more work."""
    patch_dropout: float = 0.0
    """Share of patches that a ViT drops in training (0.5 to 0.75 in published runs)."""
    image_size: int | None = None
    """Pixels of a side, if not the model's own; position tables are interpolated."""
    context_length: int | None = None
    """Tokens of a caption, if not the model's own."""
    quick_gelu: bool = False
    """The activation of OpenAI's weights (also chosen by names that end in -quickgelu)."""
    decay_rule: Literal["release-3", "head"] = "release-3"
    """Which parameters escape weight decay: open_clip's release 3, or its later development branch."""
    caption: str = "txt"
    """Where captions are: `txt`, `json:FIELD`, or several with probabilities: `txt=0.5,json:alt=0.5`."""
    crop_scale: tuple[float, float] = (0.9, 1.0)
    """Area of a training crop, as a share of the picture."""
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    """Width over height of a training crop."""
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Strengths of brightness, contrast, saturation and hue changes (for small sets)."""
    color_jitter_prob: float = 0.8
    """Share of training pictures whose colours change."""
    grey_prob: float = 0.0
    """Share of training pictures without colour (for small sets)."""


CONFIG = ClipConfig
