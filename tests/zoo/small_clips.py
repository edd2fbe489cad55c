"""CLIPs of a few layers with random weights in files, and CLIP-LIT on them, for its tests."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lumizoo.clip_lit.config import ClipLitConfig
from lumizoo.clip_lit.system import ClipLitSystem
from lumizoo.clip_lit.towers import content_tower, scoring_clip

TEXT = {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1}
SCORING = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": TEXT,
}
RESIDUAL = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "head_width": 8},
    "text_cfg": TEXT,
}
SMALL = ClipLitConfig(
    clip_model=json.dumps(SCORING),
    identity_model=json.dumps(RESIDUAL),
    prompt_length=4,
    rounds=2,
    enhancer_size=40,
    prompt_size=48,
)


def files(folder: Path) -> ClipLitConfig:
    """The small configuration with weights of both CLIPs in files."""
    torch.manual_seed(7)
    clip, tower = scoring_clip(SMALL.clip_model), content_tower(SMALL.identity_model)
    torch.save(clip.state_dict(), folder / "clip.pt")
    torch.save({f"visual.{name}": value for name, value in tower.state_dict().items()}, folder / "identity.pt")
    return replace(SMALL, clip_weights=str(folder / "clip.pt"), identity_weights=str(folder / "identity.pt"))


def built(config: ClipLitConfig, stage: str) -> ClipLitSystem:
    """The system with the networks of a stage."""
    torch.manual_seed(0)
    system = ClipLitSystem(config)
    system.build(next(one for one in system.stages() if one.name == stage))
    return system


def pictures(count: int, brightness: float, size: int = 40, seed: int = 0) -> Tensor:
    """uint8 `(B, 3, S, S)` of noise about a brightness."""
    noise = np.random.default_rng(seed).normal(255 * brightness, 20, (count, 3, size, size))
    return torch.from_numpy(noise.clip(0, 255).astype(np.uint8))


def mixed(count: int) -> dict[str, Tensor]:
    """So many dark pictures and bright ones in turns, with their sources."""
    dark, bright = pictures(count, 0.15), pictures(count, 0.7, seed=1)
    return {"image": torch.stack((dark, bright), 1).flatten(0, 1), "source": torch.arange(2 * count) % 2}


def total(terms: dict[str, Any]) -> Tensor:
    """The loss of a micro-batch."""
    return torch.stack([term.weight * term.sum / term.count for term in terms.values() if term.weight]).sum()
