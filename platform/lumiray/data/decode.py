"""Bytes of a picture -> RGB, with the pixels that PIL's `convert("RGB")` gives where they have 8 bits.

JPEG, which is nearly everything, goes through OpenCV where it is installed: the same library and pixels as PIL's
in two thirds of the time.  (torchvision is as fast, but gives its decoders up.)  All else, and what OpenCV does
not take, goes to PIL, which has the last word but on 16 bits: of those it cuts colour to the upper 8 and clips grey
to white.  Nothing is decoded before its header was checked: a few bytes can announce 100,000 x 100,000 pixels.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from lumiray.system import BadRow

MAX_PIXELS = 25_000_000
"""Larger pictures are refused (card clip, Data)."""

# formats whose readers are plain decoders; EPS, for one, would start a program
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "PPM", "JPEG2000")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers that carry the size of a JPEG
_BITS_PER_SAMPLE = 258  # tag of TIFF


def decode(data: bytes, max_pixels: int = MAX_PIXELS, factor: Literal[1, 2, 4, 8] = 1) -> np.ndarray:
    """Decode one picture to 8 bits.  Orientation tags are not followed, as in open_clip, but for those of TIFF.

    Args:
        factor: 2, 4 or 8 makes a JPEG smaller while it is decoded: fewer frequencies of each block of 8 x 8 pixels
            are turned into pixels, and pixel i covers pixels [factor * i, factor * (i + 1)) of the whole picture.
            What OpenCV does not take comes in full size.

    Returns:
        uint8, (H, W, 3), RGB; made smaller, the sides are divided by `factor` and rounded up.

    Raises:
        BadRow: not a picture, broken, cut off, or larger than `max_pixels` in full size.
    """
    frame = jpeg_frame(data)
    if frame is not None:
        _check_size(frame.height, frame.width, max_pixels)
        picture = _fast_jpeg(data, factor) if frame.channels in (1, 3) else None
        if picture is not None:
            return picture
    return eight_bits(decode_deep(data, max_pixels))


def decode_deep(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode one picture with all bits that it has; else as `decode`.

    Returns:
        uint8 or uint16, (H, W, 3), RGB.

    Raises:
        BadRow: as `decode`.
    """
    with opened(data, max_pixels) as image:
        pixels = sixteen_bits(data, image)
        if pixels is None:
            refuse_more_bits(image)
            return np.array(_rgb(image))
        return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels[..., :3]


def picture_size(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width that `decode` will give, from the header.

    Raises:
        BadRow: not a picture, or larger than `max_pixels`.
    """
    frame = jpeg_frame(data)
    if frame is None:
        with opened(data, max_pixels) as image:
            return image.height, image.width
    _check_size(frame.height, frame.width, max_pixels)
    return frame.height, frame.width


def sixteen_bits(data: bytes, image: Any) -> np.ndarray | None:
    """The pixels of a picture of 16 bits; None for all others.

    Args:
        image: `data` as `opened` gives it.

    Returns:
        uint16, (H, W) grey or (H, W, 3 or 4) RGB or RGBA, turned as PIL turns them: TIFFs upright, others not.
    """
    pixels = _opencv_sixteen_bits(data) if _may_be_deep(data, image) else None
    if pixels is None:
        return np.array(image).astype(np.uint16) if image.mode.startswith("I;16") else None
    if image.format == "PPM":
        pixels = _full_range(pixels, image)
    return pixels[..., [2, 1, 0, 3][: pixels.shape[2]]] if pixels.ndim == 3 else pixels


def refuse_more_bits(image: Any) -> None:
    """Refuse what has no range that 8 or 16 bits could stand for.

    Raises:
        BadRow: numbers of 32 bits, whole or floating.
    """
    if image.mode in ("I", "F"):
        raise BadRow("pictures of 32-bit numbers are not read: store it with 8 or 16 bits")


def eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Levels of 16 bits rounded to 8; those of 8 as they are."""
    return pixels if pixels.dtype == np.uint8 else ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


@dataclass(frozen=True)
class Frame:
    """Size and number of colour channels (4 is CMYK) that a JPEG's header announces."""

    height: int
    width: int
    channels: int


def jpeg_frame(data: bytes) -> Frame | None:
    """Read a JPEG's header up to its frame, or None where there is none, or it is no JPEG."""
    place, end = 2, len(data) if data[:3] == b"\xff\xd8\xff" else 0
    while place + 10 <= end and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # filling
            place += 1
        elif marker in _FRAMES:
            height, width = data[place + 5 : place + 7], data[place + 7 : place + 9]
            return Frame(int.from_bytes(height, "big"), int.from_bytes(width, "big"), data[place + 9])
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a length
            place += 2
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None


@lru_cache(maxsize=1)
def _opencv() -> Any | None:
    try:
        import cv2
    except ImportError:
        return None
    return cv2


def _fast_jpeg(data: bytes, factor: int) -> np.ndarray | None:
    """None where OpenCV is missing, or cannot, or will not."""
    cv2 = _opencv()
    if cv2 is None:
        return None
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    if factor > 1:  # the name for grey is the bit of the size alone; that for colour asks for blue first as well
        flags |= getattr(cv2, f"IMREAD_REDUCED_GRAYSCALE_{factor}")
    try:  # None, or an exception, for what it cannot read
        picture: np.ndarray | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return picture


def _may_be_deep(data: bytes, image: Any) -> bool:
    """Whether there can be 16 bits a channel, in colours that OpenCV takes for what they are."""
    if image.mode in ("CMYK", "LAB", "YCbCr"):
        return False
    if image.format == "PNG":
        return data[24] == 16
    if image.format == "TIFF":
        return 16 in image.tag_v2.get(_BITS_PER_SAMPLE, ())
    return image.format in ("PPM", "JPEG2000")


def _opencv_sixteen_bits(data: bytes) -> np.ndarray | None:
    """uint16 (H, W) or (H, W, C), blue first; None where OpenCV is missing, or cannot, or finds other numbers."""
    cv2 = _opencv()
    if cv2 is None:
        return None
    try:
        pixels: np.ndarray | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    return pixels if pixels is not None and pixels.dtype == np.uint16 else None


def _full_range(pixels: np.ndarray, image: Any) -> np.ndarray:
    """Levels of a PPM, whose header says which of them is white, spread over all of 16 bits."""
    told = image.tile[0].args
    white = told[1] if isinstance(told, tuple) else 65535
    return ((pixels.astype(np.uint32) * 65535 + white // 2) // white).astype(np.uint16)


@contextmanager
def opened(data: bytes, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] = _FORMATS) -> Iterator[Any]:
    """A picture opened by PIL, its size checked and nothing decoded yet; what goes wrong inside is said as here.

    Args:
        formats: names of PIL's plain decoders.

    Raises:
        BadRow: not a picture, broken, cut off, or larger than `max_pixels`.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=formats) as picture:
                _check_size(picture.height, picture.width, max_pixels)
                yield picture
    except BadRow:
        raise
    except Image.DecompressionBombError:
        raise BadRow(f"the picture has more than the {max_pixels} pixels that are read") from None
    except UnidentifiedImageError:
        raise BadRow(f"not a picture ({len(data)} bytes)") from None
    # decoders of broken files raise nearly anything: OSError, SyntaxError, struct.error, IndexError, ...
    except Exception as error:
        raise BadRow(f"the picture cannot be decoded: {str(error)[:200]}") from None


def _rgb(picture: Any) -> Any:
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise BadRow(f"the picture has {width} x {height} pixels, more than {max_pixels} are not read")
