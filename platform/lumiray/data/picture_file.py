"""Picture files as they are: 8 or 16 bits, grey or colour, with or without transparency; and back into PNG.

Training reads 8-bit RGB (`decode.py`).  Whoever mends pictures gives back what was handed in.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from lumiray.data.decode import MAX_PIXELS, opened
from lumiray.system import BadRow

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".avif", ".bmp", ".ppm", ".pgm", ".jp2")
_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "AVIF", "BMP", "PPM", "JPEG2000")  # plain decoders: none starts a program
_DEEP = ("PNG", "TIFF", "PPM", "JPEG2000")  # may have 16 bits
_KEPT = ("L", "LA", "RGB", "RGBA", "I;16")  # modes of PIL whose values are the file's own
_HEADER = 33  # bytes of a PNG before the first chunk that may follow


@dataclass(frozen=True)
class Picture:
    """The pixels of a file.

    Args:
        color: uint8 or uint16, (H, W, 1) grey or (H, W, 3) RGB.
        alpha: of the same kind, (H, W), or None.
        profile: the ICC profile that says what the colours mean, or None.
    """

    color: np.ndarray
    alpha: np.ndarray | None = None
    profile: bytes | None = None


def read_picture(data: bytes, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode one picture without changing what its numbers mean; a camera's orientation tag is followed.

    Palettes become RGB, black and white becomes grey, CMYK becomes RGB; all else keeps its kind.

    Raises:
        BadRow: not a picture, broken, cut off, several pictures in one file, floating numbers, or more pixels than
            `max_pixels`.
    """
    with opened(data, max_pixels, _FORMATS) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise BadRow(f"there are {frames} pictures in the file, and one is read")
        pixels = _deep(data) if image.format in _DEEP else None
        pixels = _shallow(image) if pixels is None else pixels
        return _divided(pixels, image.info.get("icc_profile"))


def _deep(data: bytes) -> np.ndarray | None:
    """16-bit pixels, which PIL cuts to 8 in colour: uint16 (H, W) or (H, W, C); None for all else."""
    import cv2

    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if pixels is None or pixels.dtype != np.uint16:
        return None
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return np.asarray(pixels)


def _shallow(image: Any) -> np.ndarray:
    """What PIL reads: uint8 (H, W) or (H, W, C), uint16 for its deep grey."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F"):
        raise BadRow("pictures of 32-bit numbers are not read: store it with 8 or 16 bits")
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    elif image.mode not in _KEPT:
        transparent = image.mode in ("PA", "La", "RGBa") or "transparency" in image.info
        image = image.convert("RGBA" if transparent else "RGB")
    return np.array(image)


def _divided(pixels: np.ndarray, profile: bytes | None) -> Picture:
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    channels = pixels.shape[2]
    if channels in (2, 4):
        return Picture(pixels[..., :-1], pixels[..., -1], profile)
    return Picture(pixels, None, profile)


def png(picture: Picture) -> bytes:
    """A PNG file of the same depth, channels, transparency and colour profile."""
    parts = [picture.color] if picture.alpha is None else [picture.color, picture.alpha[..., None]]
    pixels = np.ascontiguousarray(np.concatenate(parts, axis=2))
    data = _encoded_deep(pixels) if pixels.dtype == np.uint16 else _encoded(pixels)
    if picture.profile:
        packed = b"ICC profile\0\0" + zlib.compress(picture.profile)
        chunk = struct.pack(">I", len(packed)) + b"iCCP" + packed + struct.pack(">I", zlib.crc32(b"iCCP" + packed))
        data = data[:_HEADER] + chunk + data[_HEADER:]
    return data


def _encoded(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _encoded_deep(pixels: np.ndarray) -> bytes:
    """16 bits: (H, W, C) of 1, 3 or 4 channels; grey with transparency becomes RGB with it, for OpenCV has none."""
    import cv2

    if pixels.shape[2] == 2:
        pixels = pixels[..., [0, 0, 0, 1]]
    elif pixels.shape[2] >= 3:
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    done, data = cv2.imencode(".png", np.ascontiguousarray(pixels))
    if not done:
        raise RuntimeError(f"OpenCV wrote no PNG of {pixels.shape} {pixels.dtype}")
    return data.tobytes()
