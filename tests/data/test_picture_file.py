"""Files of pictures: what is in them is kept, pixels are upright, and what cannot be read or written is said."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from lumiray.data.picture_file import MOST_PIXELS, Picture, encoded, png, read_picture
from lumiray.system import BadRow

ORIENTATION, MAKER, EXIF, WIDTH, EXPOSURE = 0x0112, 0x010F, 0x8769, 0xA002, 0x829A
LEVELS = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)


def file_of(pixels: np.ndarray, form: str, orientation: int, **more: object) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKER] = orientation, "Maker"
    exif[EXIF] = {WIDTH: pixels.shape[1], EXPOSURE: 0.5}
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, exif=exif.tobytes(), **more)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_pixels_are_upright_and_exif_says_so(form: str, orientation: int) -> None:
    data = file_of(LEVELS, form, orientation)
    picture = read_picture(data)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert np.array_equal(picture.color, upright)
    for written in ("png", "jpeg", "webp"):
        found = Image.open(io.BytesIO(encoded(picture, written)))
        exif = found.getexif()
        assert exif[MAKER] == "Maker"
        assert set(exif) <= {MAKER, EXIF}  # neither an orientation nor where a TIFF's pixels were
        assert exif.get_ifd(EXIF)[EXPOSURE] == 0.5
        assert exif.get_ifd(EXIF)[WIDTH] == found.width == upright.shape[1]
        if written != "jpeg":
            assert np.array_equal(np.asarray(found), upright)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_are_turned_upright_too(form: str, orientation: int) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (6, 4), dtype=np.uint16)
    data = file_of(deep, form, orientation)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(read_picture(data).color[..., 0], upright)


def test_the_profile_is_kept_unless_it_is_one_of_other_colours() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = read_picture(file_of(LEVELS, "PNG", 1, icc_profile=profile))
    assert picture.profile == profile
    for form in ("png", "jpeg", "webp"):
        assert Image.open(io.BytesIO(encoded(picture, form))).info["icc_profile"] == profile
    buffer = io.BytesIO()
    of_inks = profile[:16] + b"CMYK" + profile[20:]
    Image.fromarray(LEVELS).convert("CMYK").save(buffer, "JPEG", icc_profile=of_inks)
    assert read_picture(buffer.getvalue()).profile is None


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("form", ["png", "webp"])
def test_grey_and_transparency_are_kept_without_loss(form: str, channels: int, transparent: bool) -> None:
    alpha = LEVELS[..., 1] if transparent else None
    found = read_picture(encoded(Picture(LEVELS[..., :channels], alpha), form))
    assert np.array_equal(found.color, np.broadcast_to(LEVELS[..., :channels], found.color.shape))
    assert found.color.shape[2] == (3 if form == "webp" else channels)  # WebP has no grey
    if form == "png" or channels == 3:
        assert alpha is None if found.alpha is None else np.array_equal(found.alpha, alpha)


def test_sixteen_bits_are_rounded_to_eight_where_the_form_has_no_more() -> None:
    deep = np.array([[0, 128, 129, 65535, 32896, 65406]], np.uint16)[..., None].repeat(3, 2)
    found = read_picture(encoded(Picture(deep), "webp")).color[0, :, 0]
    assert found.tolist() == [0, 0, 1, 255, 128, 254]
    assert np.array_equal(read_picture(encoded(Picture(deep), "png")).color, deep)


def test_a_camera_s_jpeg_with_more_behind_the_photograph_is_read() -> None:
    buffer = io.BytesIO()
    Image.fromarray(LEVELS).save(
        buffer, "MPO", save_all=True, append_images=[Image.fromarray(LEVELS)], quality=95, subsampling=0
    )
    assert Image.open(io.BytesIO(buffer.getvalue())).n_frames == 2
    assert read_picture(buffer.getvalue()).color.shape == LEVELS.shape


def test_what_a_form_cannot_hold_is_said() -> None:
    with pytest.raises(BadRow, match=r"JPEG has no transparency.*png or webp"):
        encoded(Picture(LEVELS, LEVELS[..., 0]), "jpeg")
    with pytest.raises(BadRow, match="WebP has at most 16383 pixels a side, and the picture 20000 x 1"):
        encoded(Picture(np.zeros((1, 20_000, 3), np.uint8)), "webp")


def announcing(width: int, height: int) -> bytes:
    """A few bytes of PNG that say they are very large."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"0")),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (15_000, 11_000)])
def test_a_header_that_announces_too_much_is_refused_before_anything_is_decoded(width: int, height: int) -> None:
    with pytest.raises(BadRow, match=f"more than.* {MOST_PIXELS}|more than the {MOST_PIXELS}"):
        read_picture(announcing(width, height), MOST_PIXELS)


@pytest.mark.parametrize("kept", [20, 60, 0.5, 0.9])
def test_cut_files_are_refused(kept: float) -> None:
    whole = png(Picture(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)))
    with pytest.raises(BadRow, match=r"not a picture|cannot be decoded"):
        read_picture(whole[: int(kept if kept > 1 else kept * len(whole))])
