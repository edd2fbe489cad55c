"""Pictures, rows and a small network that the tests of PairLIE share."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from lumiray.system import Row
from lumizoo.pairlie.config import PairlieConfig
from lumizoo.pairlie.system import PairlieSystem

TINY = PairlieConfig(width=6, crop_size=24)


def built(config: PairlieConfig = TINY, gain: float = 2.5) -> PairlieSystem:
    """With a gain of 1 nearly nothing of a picture comes through fresh weights: all layers are flat."""
    torch.manual_seed(0)
    system = PairlieSystem(config)
    with torch.no_grad():
        for value in system.build(system.stages()[0]).parameters():
            value.mul_(gain if value.ndim == 4 else 1)
    return system


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Soft colours, as photographs have, with a little grain; uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(30, 226, (4, 4, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + rng.integers(-4, 5, smooth.shape), 0, 255).astype(np.uint8)


def exposed(picture: np.ndarray, factor: float) -> np.ndarray:
    return (picture * factor).astype(np.uint8)


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def scene(*pictures: np.ndarray) -> Row:
    return Row("key", {f"{number}.png": png(one) for number, one in enumerate(pictures)}, 0)
