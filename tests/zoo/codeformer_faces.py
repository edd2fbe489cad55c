"""What the tests of CodeFormer share: a network that a CPU trains, and smooth pictures in place of faces."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lumizoo.codeformer.config import CodeformerConfig
from lumizoo.codeformer.system import CodeformerSystem

SIZE = 48
TINY = CodeformerConfig(
    channels=32,
    multipliers=(1, 1, 1, 2),
    size=SIZE,
    codebook_size=16,
    code_width=8,
    transformer_width=16,
    transformer_heads=2,
    transformer_layers=2,
    connections=(12, 24, 48),
    discriminator_channels=4,
    perceptual_weight=0.0,
    vqgan_gan_start=3,
    features_gan_start=2,
    faithful_until=4,
    exaggerated_until=8,
    codes_until=12,
    inpainting_gan_start=2,
    narrow_until=4,
)


def built(stage: str, config: CodeformerConfig = TINY, seed: int = 0) -> CodeformerSystem:
    """A system with the networks of a stage; the targets' VQGAN is that of the network."""
    torch.manual_seed(seed)
    system = CodeformerSystem(config)
    system.build(next(one for one in system.stages() if one.name == stage))
    if stage != "vqgan":
        for name in ("encoder", "quantize"):
            part = getattr(system.networks["target"], name)
            part.load_state_dict(getattr(system.networks["codeformer"], name).state_dict())
    return system


def face(side: int = SIZE, seed: int = 0) -> np.ndarray:
    """Soft colours, uint8 (side, side, 3)."""
    coarse = np.random.default_rng(seed).integers(20, 236, (4, 4, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def holes(pictures: np.ndarray, width: int) -> np.ndarray:
    """A white bar across each picture (B, 3, H, W)."""
    covered = pictures.copy()
    covered[..., 10 : 10 + width] = 255
    return covered


def batch(rows: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Clean pictures, and what stages see of them."""
    clean = np.stack([face(seed=seed + number) for number in range(rows)]).transpose(0, 3, 1, 2)
    noise = np.random.default_rng(seed).integers(-40, 41, clean.shape)
    found = {
        "clean": clean,
        "degraded": (clean + noise).clip(0, 255),
        "degraded_slightly": (clean + noise // 4).clip(0, 255),
        "masked": holes(clean, 4),
        "masked_widely": holes(clean, 12),
    }
    return {name: torch.from_numpy(one.astype(np.uint8)) for name, one in found.items()}
