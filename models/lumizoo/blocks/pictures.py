"""Pictures in the form that a user holds them, through a network, and back in the same form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lumiray.data.picture import luma
from lumiray.errors import UserError

CHANNELS = (1, 2, 3, 4)  # grey, with transparency; RGB, with transparency
Picture = TypeVar("Picture")


def through(pictures: Picture, change: Callable[[Tensor], Tensor], truncate: bool = False) -> Picture:
    """Apply a change of RGB tensors to a picture of any kind, and give the same kind back.

    Grey is changed as RGB of three equal channels and made grey again; transparency is left as it is.

    Args:
        pictures: a uint8 array `(H, W)` or `(H, W, C)`; a PIL picture, of which black and white becomes L, and modes
            besides L, LA, RGB and RGBA become RGB or, with transparency, RGBA; or a tensor `(C, H, W)` or
            `(B, C, H, W)`, floating in [0, 1] or uint8, whose dtype and device the result has.  C is 1 for grey, 2 with
            transparency, 3 for RGB, 4 with transparency.
        change: fp32 `(B, 3, H, W)` in [0, 1] -> pictures of the same form; what lies outside [0, 1] is clamped.
        truncate: 8-bit results are cut off as some published code does, not rounded.

    Raises:
        UserError: another kind, shape or range; it says which, and what is taken.
    """
    given: Any = pictures
    if isinstance(given, Tensor):
        return _tensor_through(given, change, truncate)
    if isinstance(given, np.ndarray):
        if given.dtype != np.uint8 or not (given.ndim == 2 or (given.ndim == 3 and given.shape[2] in CHANNELS)):
            raise UserError(
                f"The picture is a {given.dtype} array of shape {given.shape}; arrays are uint8 (H, W), (H, W, 3) RGB "
                "or (H, W, 4) with transparency. For fractions in [0, 1] give a tensor (3, H, W)."
            )
        return _array_through(given, change, truncate)  # type: ignore[return-value]

    from PIL import Image

    if isinstance(given, Image.Image):
        result = _array_through(np.asarray(_plain(given)), change, truncate)
        return Image.fromarray(result)  # type: ignore[return-value]
    raise UserError(
        f"A picture is a PIL picture, a uint8 array (H, W, 3) or a tensor (3, H, W), not a {type(given).__name__}."
    )


def _plain(picture: Any) -> Any:
    """A PIL picture of mode L, LA, RGB or RGBA."""
    if picture.mode in ("L", "LA", "RGB", "RGBA"):
        return picture
    if picture.mode == "1":
        return picture.convert("L")
    if picture.mode.startswith("I") or picture.mode == "F":  # PIL would cut their levels at 255
        raise UserError(
            f"The picture's mode is {picture.mode}; give more than 8 bits as a tensor with values in [0, 1]."
        )
    transparent = picture.mode in ("PA", "La", "RGBa") or "transparency" in picture.info
    return picture.convert("RGBA" if transparent else "RGB")


def _array_through(picture: np.ndarray, change: Callable[[Tensor], Tensor], truncate: bool) -> np.ndarray:
    channels_last = np.array(picture).reshape(
        *picture.shape[:2], -1
    )  # a copy: arrays may be read-only or flipped views
    pixels = torch.from_numpy(channels_last).permute(2, 0, 1)
    restored: np.ndarray = _tensor_through(pixels, change, truncate).permute(1, 2, 0).contiguous().numpy()
    return restored.reshape(picture.shape)


def _tensor_through(given: Any, change: Callable[[Tensor], Tensor], truncate: bool) -> Any:
    if given.ndim not in (3, 4) or given.shape[-3] not in CHANNELS or not given.numel():
        raise UserError(
            f"The picture is a tensor of shape {tuple(given.shape)}; it must be (C, H, W) or (B, C, H, W) with C = 3 "
            "for RGB, 1 for grey, 4 or 2 with transparency."
        )
    levels = given.dtype == torch.uint8
    if not levels and not given.is_floating_point():
        raise UserError(f"The picture is a tensor of {given.dtype}; it must be floating in [0, 1], or uint8.")
    many = given.detach() if given.ndim == 4 else given.detach()[None]
    color, alpha = (many[:, :-1], [many[:, -1:]]) if many.shape[1] in (2, 4) else (many, [])
    pixels = color.float() / (255 if levels else 1)
    if not (pixels.min() >= 0 and pixels.max() <= 1):  # written so that NaN is refused, too
        raise UserError(
            f"The picture's values go from {float(pixels.min()):g} to {float(pixels.max()):g}; floating ones lie in "
            "[0, 1]. Divide 8-bit levels by 255, clamp what resizing has carried outside."
        )
    grey = pixels.shape[1] == 1
    result = change(pixels.expand(-1, 3, -1, -1)).clamp(0, 1)
    result = luma(result) if grey else result
    if levels:
        result = result * 255 if truncate else (result * 255).round()
    result = torch.cat([result.to(given.device, given.dtype), *alpha], 1)
    return result if given.ndim == 4 else result[0]


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
