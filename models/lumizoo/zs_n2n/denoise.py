"""Pictures of any kind in, the same kind out: depth, channels and axes are kept (card zs-n2n, Inference)."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lumizoo.zs_n2n.config import ZsN2nConfig
from lumizoo.zs_n2n.fit import fit_many

Picture = TypeVar("Picture")


def denoise(picture: Picture, config: ZsN2nConfig | None = None) -> Picture:
    """Take the noise out of a picture by a network fitted to it alone.

    Args:
        picture: a uint8 or uint16 array `(H, W)` or `(H, W, C)`, C of 1 or 3; a PIL picture of mode L, RGB or I;16
            (others become RGB); or a tensor `(C, H, W)` or `(N, C, H, W)`, floating in [0, 1] or uint8.
        config: published settings if None.

    Returns:
        the same kind, shape and depth; integer levels are rounded.

    Raises:
        ValueError: another kind, shape or range of values.
    """
    given: Any = picture
    if isinstance(given, Tensor):
        return _tensor(given, config)
    if isinstance(given, np.ndarray):
        return _array(given, config)  # type: ignore[return-value]

    from PIL import Image

    if not isinstance(given, Image.Image):
        raise ValueError(f"a picture is an array, a PIL picture or a tensor, not a {type(given).__name__}")
    if given.mode not in ("L", "RGB", "I;16"):
        given = given.convert("RGB")
    return Image.fromarray(_array(np.asarray(given), config))  # type: ignore[return-value]


def _array(levels: np.ndarray, config: ZsN2nConfig | None) -> np.ndarray:
    if levels.dtype not in (np.uint8, np.uint16) or levels.ndim not in (2, 3):
        raise ValueError(f"arrays are uint8 or uint16, (H, W) or (H, W, C), not {levels.dtype} {levels.shape}")
    if levels.ndim == 3 and levels.shape[2] not in (1, 3):
        raise ValueError(f"arrays have 1 or 3 channels last, not {levels.shape}: take transparency apart first")
    top = np.iinfo(levels.dtype).max
    pixels = torch.from_numpy(levels.astype(np.float32) / top)
    pixels = pixels[None] if levels.ndim == 2 else pixels.permute(2, 0, 1)
    restored = fit_many(pixels[None], config)[0].restored * top
    result = restored.round().permute(1, 2, 0).reshape(levels.shape)
    return result.cpu().numpy().astype(levels.dtype)


def _tensor(pictures: Any, config: ZsN2nConfig | None) -> Any:
    if pictures.ndim not in (3, 4):
        raise ValueError(f"tensors are (C, H, W) or (N, C, H, W), not {tuple(pictures.shape)}")
    many = pictures if pictures.ndim == 4 else pictures[None]
    levels = pictures.dtype == torch.uint8
    found = fit_many(many / 255 if levels else many, config)
    restored = torch.stack([one.restored for one in found])
    restored = (restored * 255).round() if levels else restored
    return (restored if pictures.ndim == 4 else restored[0]).to(pictures.dtype)
