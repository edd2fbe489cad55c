"""Picture files as they are: 8 or 16 bits, grey or colour, with or without transparency; and back into files.

Training reads 8-bit RGB (`decode.py`).  Whoever mends pictures gives back what was handed in.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from lumiray.data.decode import MAX_PIXELS, eight_bits, opened, refuse_more_bits, sixteen_bits
from lumiray.system import BadRow

MOST_PIXELS = 150_000_000
"""Of pictures that are restored in tiles; PIL itself refuses those of more than 179 million."""
EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".avif", ".bmp", ".ppm", ".pgm", ".jp2")
_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "AVIF", "BMP", "PPM", "JPEG2000")  # plain decoders: none starts a program
_KEPT = ("L", "LA", "RGB", "RGBA")  # modes of PIL whose values are the file's own
_HEADER = 33  # bytes of a PNG before the first chunk that may follow
_ORIENTATION, _EXIF, _GPS = 0x0112, 0x8769, 0x8825  # tags of EXIF, the last two of folders in it
_WIDTH, _HEIGHT, _INTEROPERABILITY = 0xA002, 0xA003, 0xA005  # in the first of these
_TOLD = (
    0x010E,
    0x010F,
    0x0110,
    0x0131,
    0x0132,
    0x013B,
    0x8298,
    _EXIF,
    _GPS,
)  # of a TIFF; all else says where pixels are
_WEBP_MOST = 16_383  # pixels of a side


@dataclass(frozen=True)
class Picture:
    """The pixels of a file.

    Args:
        color: uint8 or uint16, (H, W, 1) grey or (H, W, 3) RGB.
        alpha: of the same kind, (H, W), or None.
        profile: the ICC profile that says what the colours mean, or None.
        exif: what the camera told, or None; without an orientation, for the pixels are upright.
    """

    color: np.ndarray
    alpha: np.ndarray | None = None
    profile: bytes | None = None
    exif: bytes | None = None


def read_picture(data: bytes, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode one picture without changing what its numbers mean; a camera's orientation tag is followed.

    Palettes become RGB, black and white becomes grey, CMYK becomes RGB; all else keeps its kind.

    Raises:
        BadRow: not a picture, broken, cut off, several pictures in one file, floating numbers, or more pixels than
            `max_pixels`.
    """
    with opened(data, max_pixels, _FORMATS) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # a camera's JPEG with previews or depth behind the photograph
            raise BadRow(f"there are {frames} pictures in the file, and one is read")
        deep = sixteen_bits(data, image)
        pixels = _shallow(image) if deep is None else deep
        if deep is None or image.format != "TIFF":  # deep TIFFs are upright, and PIL has not read them
            pixels = _upright(pixels, image)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        color, alpha = (pixels[..., :-1], pixels[..., -1]) if pixels.shape[2] in (2, 4) else (pixels, None)
        return Picture(color, alpha, _profile(image, color.shape[2]), _exif(image, *color.shape[:2]))


def _upright(pixels: np.ndarray, image: Any) -> np.ndarray:
    """Pixels turned as the orientation tag says."""
    orientation = image.getexif().get(_ORIENTATION, 1)
    if orientation in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
    across, down = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    return pixels[:: -1 if down else 1, :: -1 if across else 1]


def _shallow(image: Any) -> np.ndarray:
    """What PIL reads, uint8 (H, W) or (H, W, C)."""
    refuse_more_bits(image)
    plain = image
    if image.mode == "1":
        plain = image.convert("L")
    elif image.mode not in _KEPT:
        transparent = image.mode in ("PA", "La", "RGBa") or "transparency" in image.info
        plain = image.convert("RGBA" if transparent else "RGB")
    return np.array(plain)


def _profile(image: Any, channels: int) -> bytes | None:
    """The file's ICC profile, unless it is one of colours that the pixels no longer have, such as CMYK."""
    profile: bytes | None = image.info.get("icc_profile")
    spaces = {b"GRAY": 1, b"RGB ": 3, b"CMYK": 4}
    return profile if profile and spaces.get(profile[16:20], channels) == channels else None


def _exif(image: Any, height: int, width: int) -> bytes | None:
    """The file's EXIF for upright pixels of this size, without the preview in it."""
    found = image.getexif()
    for tag in list(found):
        if tag == _ORIENTATION or (image.format == "TIFF" and tag not in _TOLD):
            del found[tag]
    inner = {tag: value for tag, value in found.get_ifd(_EXIF).items() if tag != _INTEROPERABILITY}  # names an offset
    inner |= {tag: side for tag, side in ((_WIDTH, width), (_HEIGHT, height)) if tag in inner}
    if inner:
        found[_EXIF] = inner
    return found.tobytes() if len(found) else None


def encoded(picture: Picture, form: str) -> bytes:
    """A file of the same channels, transparency, colour profile and EXIF.

    Args:
        form: `png`, of the same depth; or of 8 bits `jpeg` (quality 95, colours at full size) or `webp` (lossless).

    Raises:
        BadRow: what the form cannot hold; the message says which can.
    """
    if form == "png":
        return png(picture)
    from PIL import Image

    height, width = picture.color.shape[:2]
    if form == "jpeg" and picture.alpha is not None:
        raise BadRow("JPEG has no transparency, and the picture has: write it as png or webp")
    if form == "webp" and max(height, width) > _WEBP_MOST:
        raise BadRow(
            f"WebP has at most {_WEBP_MOST} pixels a side, and the picture {width} x {height}: write it as png"
        )
    told: dict[str, Any] = {"icc_profile": picture.profile, "exif": picture.exif or b""}
    told |= {"quality": 95, "subsampling": 0} if form == "jpeg" else {"lossless": True}
    buffer = io.BytesIO()
    image = Image.fromarray(_flat(eight_bits(_joined(picture))))
    if form == "webp" and picture.color.shape[2] == 1:  # it has no grey
        image = image.convert("RGB" if picture.alpha is None else "RGBA")
        told["icc_profile"] = None  # which was one of grey
    image.save(buffer, form, **told)
    return buffer.getvalue()


def png(picture: Picture) -> bytes:
    """A PNG file of the same depth, channels, transparency, colour profile and EXIF."""
    pixels = _joined(picture)
    data = _encoded_deep(pixels) if pixels.dtype == np.uint16 else _encoded(pixels)
    chunks = b""
    if picture.profile:
        chunks += _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(picture.profile))
    if picture.exif:
        chunks += _chunk(b"eXIf", picture.exif.removeprefix(b"Exif\0\0"))
    return data[:_HEADER] + chunks + data[_HEADER:]


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _joined(picture: Picture) -> np.ndarray:
    parts = [picture.color] if picture.alpha is None else [picture.color, picture.alpha[..., None]]
    return np.ascontiguousarray(np.concatenate(parts, axis=2))


def _flat(pixels: np.ndarray) -> np.ndarray:
    """(H, W) of grey in (H, W, 1), as PIL wants it."""
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def _encoded(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(_flat(pixels)).save(buffer, "PNG")
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
