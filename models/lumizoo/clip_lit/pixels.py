"""Pictures as CLIP's image towers take them (card clip-lit, Network: prompts and text encoder)."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor

from lumizoo.blocks.open_clip_library import OPENAI_MEAN, OPENAI_STD


def clip_pixels(pictures: Tensor, side: int) -> Tensor:
    """RGB in [0, 1] `(B, 3, H, W)` to normalised `(B, 3, S, S)`, fp32: bilinear, sides stretched, no antialiasing."""
    small = functional.interpolate(
        pictures.float(), (side, side), mode="bilinear", align_corners=False, antialias=False
    )
    mean, std = (torch.tensor(values, device=small.device).view(3, 1, 1) for values in (OPENAI_MEAN, OPENAI_STD))
    return (small - mean) / std
