"""Results of a round, which the refinement of prompts reads as `result1.png` and `result2.png` (card clip-lit)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from lumizoo.blocks.pictures import through
from lumizoo.clip_lit.network import enhanced_in_training
from lumizoo.clip_lit.prepare import squared


@torch.no_grad()
def stored_result(enhancer: nn.Module, picture: np.ndarray, size: int = 256) -> np.ndarray:
    """A backlit picture as the enhancer of the round makes it, in the form that training gives it.

    Args:
        picture: uint8 RGB `(H, W, 3)`, without any random change.
        size: S, `--prompt-size`.

    Returns:
        uint8 RGB `(S, S, 3)`, rounded.
    """
    device = next(enhancer.parameters()).device

    def change(pictures: Tensor) -> Tensor:
        return enhanced_in_training(enhancer, pictures.to(device))

    return through(squared(picture, size), change)
