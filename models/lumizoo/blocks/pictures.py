"""Pictures in the form that a user holds them, through a network, and back in the same form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lumiray.errors import UserError

Picture = TypeVar("Picture")


def through(pictures: Picture, change: Callable[[Tensor], Tensor], truncate: bool = False) -> Picture:
    """Apply a change of tensors to a picture of any kind, and give the same kind back.

    Args:
        pictures: a uint8 RGB array `(H, W, 3)`; a PIL picture of any mode (the result is RGB); or an RGB tensor
            `(3, H, W)` or `(B, 3, H, W)`, floating in [0, 1] or uint8, whose dtype and device the result has.
        change: fp32 `(B, 3, H, W)` in [0, 1] -> pictures of the same form; what lies outside [0, 1] is clamped.
        truncate: 8-bit results are cut off as some published code does, not rounded.

    Raises:
        UserError: another kind, shape or range; it says which, and what is taken.
    """
    given: Any = pictures
    if isinstance(given, Tensor):
        return _tensor_through(given, change, truncate)
    if isinstance(given, np.ndarray):
        if given.dtype != np.uint8 or given.ndim != 3 or given.shape[2] != 3:
            raise UserError(
                f"The picture is a {given.dtype} array of shape {given.shape}; arrays are uint8 RGB (H, W, 3). For "
                "fractions in [0, 1] give a tensor (3, H, W)."
            )
        return _array_through(given, change, truncate)  # type: ignore[return-value]

    from PIL import Image

    if isinstance(given, Image.Image):
        result = _array_through(np.asarray(given.convert("RGB")), change, truncate)
        return Image.fromarray(result)  # type: ignore[return-value]
    raise UserError(
        f"A picture is a PIL picture, a uint8 array (H, W, 3) or a tensor (3, H, W), not a {type(given).__name__}."
    )


def _array_through(picture: np.ndarray, change: Callable[[Tensor], Tensor], truncate: bool) -> np.ndarray:
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)  # a copy: arrays may be read-only or flipped views
    restored: np.ndarray = _tensor_through(pixels, change, truncate).permute(1, 2, 0).contiguous().numpy()
    return restored


def _tensor_through(given: Any, change: Callable[[Tensor], Tensor], truncate: bool) -> Any:
    if given.ndim not in (3, 4) or given.shape[-3] != 3 or not given.numel():
        raise UserError(f"The picture is a tensor of shape {tuple(given.shape)}; it must be (3, H, W) or (B, 3, H, W).")
    levels = given.dtype == torch.uint8
    if not levels and not given.is_floating_point():
        raise UserError(f"The picture is a tensor of {given.dtype}; it must be floating in [0, 1], or uint8.")
    pixels = given.detach().float() / (255 if levels else 1)
    if not (pixels.min() >= 0 and pixels.max() <= 1):  # written so that NaN is refused, too
        raise UserError(
            f"The picture's values go from {float(pixels.min()):g} to {float(pixels.max()):g}; floating ones lie in "
            "[0, 1]. Divide 8-bit levels by 255, clamp what resizing has carried outside."
        )
    result = change(pixels if given.ndim == 4 else pixels[None]).clamp(0, 1)
    if levels:
        result = result * 255 if truncate else (result * 255).round()
    return (result if given.ndim == 4 else result[0]).to(given.device, given.dtype)


def pad_to_multiple(pictures: Tensor, multiple: int) -> Tensor:
    """Reflect pictures `(B, C, H, W)` at the right and the bottom until both sides are multiples.

    A side that is shorter than what it lacks is reflected back and forth, so one pixel is repeated.
    """
    for axis in (-2, -1):
        size = pictures.shape[axis]
        padded = -(-size // multiple) * multiple
        if padded != size:
            pictures = pictures.index_select(axis, _reflected(size, padded, pictures.device))
    return pictures


def _reflected(size: int, padded: int, device: torch.device) -> Tensor:
    """Which pixel of `size` stands at each of `padded` places; the edge itself is not repeated."""
    period = max(1, 2 * (size - 1))
    place = torch.arange(padded, device=device) % period
    return torch.minimum(place, period - place)
