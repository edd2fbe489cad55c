"""Faces that have lost their colours, for colourisation (card codeformer, Data)."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import torchvision.transforms.functional as change
from torch import Tensor

LARGEST_SHIFT = 20 / 255
SHIFT_OFTEN, GREY_OFTEN, JITTER_OFTEN = 0.3, 0.01, 0.3


def discoloured(picture: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """A degraded picture uint8 RGB (H, W, 3) with other colours, or none, as often as published."""
    pixels = picture.astype(np.float32) / 255
    if draw.random() < SHIFT_OFTEN:
        pixels = (pixels + draw.uniform(-LARGEST_SHIFT, LARGEST_SHIFT, 3).astype(np.float32)).clip(0, 1)
    colours = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    if draw.random() < GREY_OFTEN:
        colours = change.rgb_to_grayscale(colours, 3)
    if draw.random() < JITTER_OFTEN:
        colours = jittered(colours, draw)
    result: np.ndarray = (colours.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return result


def jittered(colours: Tensor, draw: np.random.Generator) -> Tensor:
    """Brightness, contrast, saturation and hue changed in random order, RGB in [0, 1] `(3, H, W)`."""
    changes = [
        partial(change.adjust_brightness, brightness_factor=draw.uniform(0.5, 1.5)),
        partial(change.adjust_contrast, contrast_factor=draw.uniform(0.5, 1.5)),
        partial(change.adjust_saturation, saturation_factor=draw.uniform(0, 1.5)),
        partial(change.adjust_hue, hue_factor=draw.uniform(-0.1, 0.1)),
    ]
    for number in draw.permutation(len(changes)):
        colours = changes[number](colours)
    return colours
