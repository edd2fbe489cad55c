"""Every form that pictures come in, against the levels that were put into the file rather than against a library."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, features

from lumiray.data.class_numbers import decode_class_numbers, unlabelled
from lumiray.data.decode import decode, decode_deep, picture_size
from lumiray.data.picture_file import read_picture
from lumiray.system import BadRow

HEIGHT, WIDTH = 12, 20
ORIENTATION = 0x0112
LOSSY = 6  # levels by which a soft picture may differ after a careful JPEG or AVIF, at most


def soft() -> np.ndarray:
    """Soft colours, so that lossy forms come close: uint8 (H, W, 3)."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([20 + 10 * x, 40 + 12 * y, 210 - 4 * x - 6 * y], axis=2).astype(np.uint8)


def deep() -> np.ndarray:
    """Levels of 16 bits near every border of rounding: uint16 (H, W, 3)."""
    levels = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, 3), dtype=np.uint16)
    levels.flat[:12] = [0, 1, 127, 128, 129, 255, 256, 257, 385, 386, 65407, 65535]
    return levels


def rounded(levels: np.ndarray) -> np.ndarray:
    return np.floor(levels / 257 + 0.5).astype(np.uint8)


def pil(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def opencv(levels: np.ndarray, ending: str) -> bytes:
    done, data = cv2.imencode(ending, levels if levels.ndim == 2 else levels[..., [2, 1, 0, 3][: levels.shape[2]]])
    assert done
    return data.tobytes()


def png_of(bits: int, kind: int, lines: list[bytes], width: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of the given packed lines, for what no library writes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, len(lines), bits, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + line for line in lines))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def ppm_of(levels: np.ndarray, white: int) -> bytes:
    header = f"P{5 if levels.ndim == 2 else 6}\n{WIDTH} {HEIGHT}\n{white}\n"
    return header.encode() + levels.astype(">u2").tobytes()


def ycck() -> bytes:
    """A JPEG as Adobe writes it: inks inverted, and cyan, magenta, yellow stored as lightness and colour."""
    cyan, magenta, yellow, black = Image.fromarray(soft()).convert("CMYK").split()
    stored = Image.merge("RGB", (cyan, magenta, yellow)).convert("YCbCr").split()
    inverted = [one.point(lambda level: 255 - level) for one in stored]  # PIL inverts what it writes once more
    data = bytearray(pil(Image.merge("CMYK", (*inverted, black)), "JPEG", quality=100, subsampling=0))
    data[data.index(b"Adobe") + 11] = 2  # how colours are stored
    return bytes(data)


GREY = soft()[..., 0]
ALPHA = np.linspace(0, 255, HEIGHT * WIDTH).astype(np.uint8).reshape(HEIGHT, WIDTH)
PALETTE = Image.fromarray(soft()).quantize(256)
EXACT = {
    "png": (pil(Image.fromarray(soft()), "PNG"), soft()),
    "png grey": (pil(Image.fromarray(GREY), "PNG"), GREY),
    "png alpha": (pil(Image.fromarray(np.dstack([soft(), ALPHA])), "PNG"), soft()),
    "png grey alpha": (pil(Image.fromarray(np.dstack([GREY, ALPHA])), "PNG"), GREY),
    "png palette": (pil(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB"))),
    "png palette, transparent": (
        pil(PALETTE, "PNG", transparency=bytes(range(256))),
        np.asarray(PALETTE.convert("RGB")),
    ),
    "png one bit": (pil(Image.fromarray(GREY > 100), "PNG"), np.where(GREY > 100, 255, 0)),
    "webp lossless": (pil(Image.fromarray(soft()), "WEBP", lossless=True), soft()),
    "webp alpha": (pil(Image.fromarray(np.dstack([soft(), ALPHA])), "WEBP", lossless=True, exact=True), soft()),
    "gif": (pil(PALETTE, "GIF"), np.asarray(PALETTE.convert("RGB"))),
    "gif, first of two": (
        pil(PALETTE, "GIF", save_all=True, append_images=[Image.new("P", PALETTE.size)]),
        np.asarray(PALETTE.convert("RGB")),
    ),
    "tiff": (pil(Image.fromarray(soft()), "TIFF"), soft()),
    "tiff deflated": (pil(Image.fromarray(soft()), "TIFF", compression="tiff_adobe_deflate"), soft()),
    "tiff cmyk": (
        pil(Image.fromarray(soft()).convert("CMYK"), "TIFF"),
        np.asarray(Image.fromarray(soft()).convert("CMYK").convert("RGB")),
    ),
    "bmp": (pil(Image.fromarray(soft()), "BMP"), soft()),
}
CLOSE = {
    "jpeg": (pil(Image.fromarray(soft()), "JPEG", quality=98, subsampling=0), soft()),
    "jpeg grey": (pil(Image.fromarray(GREY), "JPEG", quality=98), GREY),
    "jpeg cmyk": (pil(Image.fromarray(soft()).convert("CMYK"), "JPEG", quality=100, subsampling=0), soft()),
    "jpeg ycck": (ycck(), soft()),
    "webp": (pil(Image.fromarray(GREY), "WEBP", quality=100), GREY),
}
if features.check("avif"):
    CLOSE["avif"] = (pil(Image.fromarray(soft()), "AVIF", quality=100, subsampling="4:4:4"), soft())
DEEP = {
    "png": (opencv(deep(), ".png"), deep()),
    "png grey": (opencv(deep()[..., 0], ".png"), deep()[..., 0]),
    "png alpha": (opencv(np.dstack([deep(), deep()[..., :1]]), ".png"), deep()),
    "png grey alpha": (
        png_of(16, 4, [line.astype(">u2").tobytes() for line in deep()[..., :2]], WIDTH),
        deep()[..., 0],
    ),
    "tiff": (opencv(deep(), ".tif"), deep()),
    "tiff grey": (opencv(deep()[..., 0], ".tif"), deep()[..., 0]),
    "ppm": (opencv(deep(), ".ppm"), deep()),
    "ppm of 10 bits": (ppm_of(deep() // 64, 1023), np.rint(deep() // 64 * (65535 / 1023)).astype(np.uint16)),
    "pgm of 10 bits": (
        ppm_of(deep()[..., 0] // 64, 1023),
        np.rint(deep()[..., 0] // 64 * (65535 / 1023)).astype(np.uint16),
    ),
    "tiff grey by PIL": (pil(Image.fromarray(deep()[..., 0]), "TIFF"), deep()[..., 0]),
}


def in_colour(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels[..., None], 3, axis=2) if levels.ndim == 2 else levels


@pytest.mark.parametrize("kind", EXACT)
def test_levels_of_8_bits_come_back(kind: str) -> None:
    data, levels = EXACT[kind]
    for decoder in (decode, decode_deep):
        got = decoder(data)
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, in_colour(levels))


@pytest.mark.parametrize("kind", CLOSE)
def test_lossy_forms_come_close_and_inks_are_not_inverted(kind: str) -> None:
    data, levels = CLOSE[kind]
    got = decode(data)
    assert (got.dtype, got.shape) == (np.uint8, (HEIGHT, WIDTH, 3))
    assert np.abs(got.astype(int) - in_colour(levels)).max() <= LOSSY


@pytest.mark.parametrize("kind", DEEP)
def test_16_bits_are_rounded_to_8_or_kept(kind: str) -> None:
    data, levels = DEEP[kind]
    np.testing.assert_array_equal(decode(data), in_colour(rounded(levels)))
    kept = decode_deep(data)
    assert kept.dtype == np.uint16
    np.testing.assert_array_equal(kept, in_colour(levels))
    np.testing.assert_array_equal(in_colour(np.squeeze(read_picture(data).color)), in_colour(levels))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_without_a_range_are_refused(mode: str) -> None:
    data = pil(Image.fromarray(GREY).convert(mode), "TIFF")
    for decoder in (decode, decode_deep):
        with pytest.raises(BadRow, match="32-bit numbers are not read"):
            decoder(data)


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_followed_in_tiff_alone_and_sizes_agree(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    data = pil(Image.fromarray(soft()), form, exif=exif, **options)
    got = decode(data)
    turned = np.rot90(soft(), {1: 0, 3: 2, 6: -1}[orientation] if form == "TIFF" else 0)
    assert got.shape == turned.shape and picture_size(data) == turned.shape[:2]
    if form != "JPEG":
        np.testing.assert_array_equal(got, turned)


@pytest.mark.parametrize("kinds", [EXACT, CLOSE, DEEP], ids=["exact", "close", "deep"])
def test_sizes_are_known_before_decoding(kinds: dict[str, tuple[bytes, np.ndarray]]) -> None:
    for kind, (data, _) in kinds.items():
        assert picture_size(data) == (HEIGHT, WIDTH), kind
        with pytest.raises(BadRow, match="20 x 12 pixels, more than 100 are not read"):
            picture_size(data, max_pixels=100)


@pytest.mark.parametrize("kind", DEEP)
def test_16_bits_that_are_cut_off_are_refused(kind: str) -> None:
    data = DEEP[kind][0]
    with pytest.raises(BadRow):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("palette", [False, True])
def test_class_numbers_are_those_of_the_file(bits: int, palette: bool) -> None:
    most = 2**bits - 1
    numbers = np.random.default_rng(bits).integers(0, most + 1, (3, 16), dtype=np.uint8)
    lines = [np.packbits(np.unpackbits(line[:, None], axis=1)[:, 8 - bits :].ravel()).tobytes() for line in numbers]
    colours = [(b"PLTE", bytes(range(most, -1, -1)) * 3)] if palette else []
    got = decode_class_numbers(png_of(bits, 3 if palette else 0, lines, 16, *colours))
    assert got.dtype == np.uint8 and unlabelled(got) == 255
    np.testing.assert_array_equal(got, numbers)


def test_class_numbers_of_16_bits_and_of_no_kind() -> None:
    got = decode_class_numbers(DEEP["png grey"][0])
    assert got.dtype == np.uint16 and unlabelled(got) == 65535
    np.testing.assert_array_equal(got, deep()[..., 0])
    with pytest.raises(BadRow, match="the picture is RGB"):
        decode_class_numbers(EXACT["png"][0])
    with pytest.raises(BadRow, match="not a picture"):
        decode_class_numbers(CLOSE["jpeg grey"][0])
