"""Decoding of every kind of picture, refusal of hostile ones, and transforms equal to open_clip's."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from lumiray.data import picture as pictures
from lumiray.data.decode import Frame, decode, jpeg_frame
from lumiray.system import BadRow


def photo(height: int = 90, width: int = 120) -> np.ndarray:
    """Smooth colours with some noise, so that JPEG, resizing and hue all have something to do."""
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([127 + 90 * np.sin(x / 9 + k) * np.cos(y / (7 + k)) for k in range(3)], axis=2)
    noise = np.random.default_rng(3).normal(0, 12, base.shape)
    return np.clip(base + noise, 0, 255).astype(np.uint8)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


RGB = Image.fromarray(photo())
PALETTE = RGB.convert("P", palette=Image.Palette.ADAPTIVE)
ALPHA = Image.fromarray(np.dstack([photo(), np.linspace(0, 255, 90 * 120).reshape(90, 120).astype(np.uint8)]))
KINDS: dict[str, bytes] = {
    "jpeg": encoded(RGB, "JPEG", quality=90),
    "jpeg progressive": encoded(RGB, "JPEG", progressive=True),
    "jpeg 4:4:4": encoded(RGB, "JPEG", subsampling=0),
    "jpeg restart": encoded(RGB, "JPEG", restart_marker_blocks=5),
    "jpeg grey": encoded(RGB.convert("L"), "JPEG"),
    "jpeg cmyk": encoded(RGB.convert("CMYK"), "JPEG"),
    "jpeg turned": encoded(RGB, "JPEG", exif=Image.Exif()),
    "jpeg with trailing bytes": encoded(RGB, "JPEG") + b"appended",
    "png": encoded(RGB, "PNG"),
    "png grey": encoded(RGB.convert("L"), "PNG"),
    "png grey alpha": encoded(ALPHA.convert("LA"), "PNG"),
    "png alpha": encoded(ALPHA, "PNG"),
    "png palette": encoded(PALETTE, "PNG"),
    "png palette transparent": encoded(PALETTE, "PNG", transparency=b"\0\x80\xff"),
    "png one bit": encoded(RGB.convert("1"), "PNG"),
    "webp": encoded(RGB, "WEBP"),
    "webp alpha": encoded(ALPHA, "WEBP", lossless=True),
    "gif": encoded(PALETTE, "GIF"),
    "bmp": encoded(RGB, "BMP"),
    "tiff": encoded(RGB, "TIFF"),
    "avif": encoded(RGB, "AVIF"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_the_pixels_of_pil(kind: str) -> None:
    expected = np.asarray(Image.open(io.BytesIO(KINDS[kind])).convert("RGB"))
    got = decode(KINDS[kind])
    assert got.dtype == np.uint8 and got.shape == (90, 120, 3)
    np.testing.assert_array_equal(got, expected)


def test_orientation_is_not_followed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(RGB, "JPEG", quality=90, exif=exif)
    np.testing.assert_array_equal(decode(turned), decode(KINDS["jpeg"]))


@pytest.mark.parametrize("kind", ["jpeg", "jpeg progressive", "png", "webp", "tiff", "gif", "avif", "bmp"])
def test_a_picture_that_is_cut_off_is_refused(kind: str) -> None:
    whole = KINDS[kind]
    for share in (0.02, 0.5, 0.9):
        with pytest.raises(BadRow):
            decode(whole[: int(len(whole) * share)])


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"<html>", b"\x89PNG\r\n\x1a\n", bytes(1000)])
def test_what_is_not_a_picture_is_refused(data: bytes) -> None:
    with pytest.raises(BadRow):
        decode(data)


def test_postscript_is_not_handed_to_an_interpreter() -> None:
    with pytest.raises(BadRow, match="not a picture"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")


def _png(width: int, height: int, *chunks: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rest = b"".join(chunk(body[:4], body[4:]) for body in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + rest + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def test_headers_that_announce_too_many_pixels_are_refused_before_decoding() -> None:
    with pytest.raises(BadRow, match="pixels"):
        decode(_png(100_000, 100_000))
    jpeg = bytearray(KINDS["jpeg"])
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    with pytest.raises(BadRow, match="60000 x 60000"):
        decode(bytes(jpeg))
    with pytest.raises(BadRow, match="120 x 90 pixels, more than 100"):
        decode(KINDS["webp"], max_pixels=100)


def test_a_text_chunk_that_unpacks_to_gigabytes_is_refused() -> None:
    bomb = zlib.compress(bytes(80 << 20), 9)
    assert len(bomb) < 200_000
    with pytest.raises(BadRow):
        decode(_png(10, 10, b"zTXt" + b"Comment\0\0" + bomb))
    assert PngImagePlugin.MAX_TEXT_CHUNK <= 1 << 20  # PIL's own guard, on which this rests


def test_without_opencv_the_pixels_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {kind: decode(data) for kind, data in KINDS.items() if kind.startswith("jpeg")}
    monkeypatch.setattr("lumiray.data.decode._opencv", lambda: None)
    for kind, pixels in expected.items():
        np.testing.assert_array_equal(decode(KINDS[kind]), pixels)


def test_corrupt_jpegs_have_the_pixels_of_pil() -> None:
    draw = np.random.default_rng(0)
    agreed = 0
    for _ in range(150):
        data = bytearray(KINDS["jpeg"])
        for _ in range(draw.integers(1, 5)):
            data[draw.integers(2, len(data))] = draw.integers(256)
        try:
            expected = np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGB"))
        except Exception:
            continue
        np.testing.assert_array_equal(decode(bytes(data)), expected)
        agreed += 1
    assert agreed > 50


def test_the_size_is_read_from_the_header() -> None:
    for kind in ("jpeg", "jpeg progressive", "jpeg cmyk", "jpeg restart"):
        assert jpeg_frame(KINDS[kind]) == Frame(90, 120, 4 if "cmyk" in kind else 3)
    assert jpeg_frame(b"\xff\xd8\xff\xe0\x00\x10") is None


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("shape", [(50, 70), (70, 50), (32, 32), (31, 97), (200, 33), (5, 7), (64, 65), (33, 32)])
def test_evaluation_pixels_are_those_of_open_clip(mode: str, shape: tuple[int, int]) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    source = photo(*shape)
    cfg = PreprocessCfg(size=32, mean=(0, 0, 0), std=(1, 1, 1), resize_mode=mode)
    expected = image_transform_v2(cfg, is_train=False)(Image.fromarray(source))
    got = pictures.resize_for_evaluation(source, 32, mode)
    np.testing.assert_array_equal(got, np.rint(expected.permute(1, 2, 0).numpy() * 255).astype(np.uint8))


def test_crops_are_distributed_as_torchvisions() -> None:
    """Moments and Kolmogorov-Smirnov distance of every parameter, for open_clip's and for wide settings."""
    import torch
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(1)
    draw = np.random.default_rng(2)
    count = 3000
    for scale, ratio, (height, width) in (
        ((0.9, 1.0), (3 / 4, 4 / 3), (384, 512)),
        ((0.08, 1.0), (3 / 4, 4 / 3), (300, 200)),
        ((0.5, 1.0), (3 / 4, 4 / 3), (20, 400)),
    ):
        blank = torch.zeros(3, height, width)
        theirs = np.array([RandomResizedCrop.get_params(blank, scale, ratio) for _ in range(count)])
        ours = np.array([pictures.crop_box(height, width, scale, ratio, draw) for _ in range(count)])
        for column in range(4):
            a, b = np.sort(theirs[:, column]), np.sort(ours[:, column])
            grid = np.union1d(a, b)
            apart = np.abs(np.searchsorted(a, grid, "right") - np.searchsorted(b, grid, "right")).max() / count
            assert apart < 1.95 * np.sqrt(2 / count), (scale, column, apart)  # p = 0.001
        assert (ours[:, 0] + ours[:, 2] <= height).all() and (ours[:, 1] + ours[:, 3] <= width).all()


def test_crops_follow_the_generator() -> None:
    def crop(seed: int) -> np.ndarray:
        draw = np.random.Generator(np.random.Philox(seed))
        return pictures.random_resized_crop(photo(), 64, (0.3, 1.0), (0.75, 4 / 3), draw)

    np.testing.assert_array_equal(crop(1), crop(1))
    assert (crop(1) != crop(2)).any()


@pytest.mark.parametrize("shape", [(384, 512), (40, 300), (224, 224), (100, 90), (9, 5)])
def test_training_pixels_are_those_of_pil_but_for_rounding(shape: tuple[int, int]) -> None:
    source = photo(*shape)[2:, 1:]
    expected = np.asarray(Image.fromarray(source).resize((224, 224), Image.Resampling.BICUBIC)).astype(int)
    got = pictures.resize(source, 224, 224).astype(int)
    assert np.abs(got - expected).max() <= (1 if min(shape) >= 224 else 2)  # making larger rounds once more
    assert np.mean((got - expected) ** 2) < 255**2 / 10**6  # 60 dB


def test_colours_change_as_torchvisions_for_equal_parameters() -> None:
    """One change at a time: torchvision's function with the factor that the generator gives is the truth."""
    from torchvision.transforms import functional

    image = Image.fromarray(photo())
    for name, index, low, high in (
        ("brightness", 0, 0.2, 1.8),
        ("contrast", 1, 0.2, 1.8),
        ("saturation", 2, 0.2, 1.8),
        ("hue", 3, -0.4, 0.4),
    ):
        for seed in range(6):
            strengths = [0.0, 0.0, 0.0, 0.0]
            strengths[index] = 0.4 if name == "hue" else 0.8
            got = pictures.color_jitter(photo(), *strengths, np.random.default_rng(seed))
            factor = np.random.default_rng(seed).uniform(low, high)
            expected = getattr(functional, f"adjust_{name}")(image, factor)
            np.testing.assert_array_equal(got, np.asarray(expected), err_msg=f"{name} {factor}")


def test_mean_and_spread_of_jittered_pictures_are_torchvisions() -> None:
    import torch
    from torchvision.transforms import ColorJitter

    torch.manual_seed(0)
    small = photo(8, 8)
    draw = np.random.default_rng(1)
    theirs = ColorJitter(0.4, 0.4, 0.4, 0.1)
    a = np.array([np.asarray(theirs(Image.fromarray(small))).mean((0, 1)) for _ in range(1500)])
    b = np.array([pictures.color_jitter(small, 0.4, 0.4, 0.4, 0.1, draw).mean((0, 1)) for _ in range(1500)])
    error = np.sqrt(a.var(0) / 1500 + b.var(0) / 1500)
    assert (np.abs(a.mean(0) - b.mean(0)) < 4 * error).all()
    assert (np.abs(a.std(0) / b.std(0) - 1) < 0.12).all()


def test_grey_is_torchvisions() -> None:
    from torchvision.transforms import Grayscale

    expected = Grayscale(num_output_channels=3)(Image.fromarray(photo()))
    np.testing.assert_array_equal(pictures.grey(photo()), np.asarray(expected))
