"""Large JPEGs decoded at a part of their size: the same crops, nearly the same pixels; all else as ever."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from lumiray.data.decode import decode
from lumiray.data.picture import random_resized_crop, reduced_random_resized_crop, reduction
from lumiray.system import BadRow, Row
from lumizoo.clip.config import ClipConfig
from lumizoo.clip.prepare import Prepare

SCALE, WIDE, RATIO = (0.9, 1.0), (0.2, 1.0), (3 / 4, 4 / 3)


def photograph(name: str, width: int | None = None, height: int | None = None) -> Image.Image:
    """One that ships in scikit-image, or its upper left corner."""
    import skimage.data

    whole = Image.fromarray(getattr(skimage.data, name)())
    return whole.crop((0, 0, width or whole.width, height or whole.height))


def encoded(image: Image.Image, form: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, quality=90, **options)
    return buffer.getvalue()


def both(data: bytes, size: int, scale: tuple[float, float], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The exact crop and the reduced one from equal generators, which are equal afterwards, too."""
    one, other = np.random.default_rng(seed), np.random.default_rng(seed)
    exact = random_resized_crop(decode(data), size, scale, RATIO, one)
    reduced = reduced_random_resized_crop(data, size, scale, RATIO, other)
    assert one.random() == other.random()
    assert exact.shape == reduced.shape and exact.dtype == reduced.dtype
    return exact, reduced


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_smaller_picture_is_the_one_that_the_jpeg_library_makes(factor: int, mode: str) -> None:
    data = encoded(photograph("retina", 1405, 1003).convert(mode))
    expected = Image.open(io.BytesIO(data))
    expected.draft(mode, (1405 // factor, 1003 // factor))
    got = decode(data, factor=factor)  # type: ignore[arg-type]
    assert got.shape == (-(-1003 // factor), -(-1405 // factor), 3)
    np.testing.assert_array_equal(got, np.asarray(expected.convert("RGB")))


@pytest.mark.parametrize(
    ("name", "width", "height", "size"),
    [
        ("retina", None, None, 224),
        ("hubble_deep_field", 999, 871, 224),
        ("hubble_deep_field", 1000, 703, 97),
        ("astronaut", 511, 509, 64),
        ("coffee", 597, 397, 33),
        ("rocket", 640, 427, 24),
    ],
)
def test_crops_differ_little_from_those_of_full_decoding(name: str, width: int, height: int, size: int) -> None:
    data = encoded(photograph(name, width, height))
    for scale in (SCALE, WIDE):
        pairs = [both(data, size, scale, seed) for seed in range(20)]
        made_smaller = [psnr(*pair) for pair in pairs if (pair[0] != pair[1]).any()]
        assert len(made_smaller) >= (20 if scale == SCALE else 5)
        assert np.mean(made_smaller) > 42 and min(made_smaller) > 38


def test_a_crop_keeps_one_and_a_half_times_the_pixels_that_it_becomes() -> None:
    assert [reduction(671, 9000, 224), reduction(672, 672, 224)] == [1, 2]
    assert [reduction(1343, 1344, 224), reduction(2000, 1344, 224)] == [2, 4]
    assert [reduction(2688, 2688, 224), reduction(100_000, 100_000, 224)] == [8, 8]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "cmyk"])
def test_what_is_not_made_smaller_is_equal_bit_for_bit(form: str) -> None:
    small = photograph("astronaut", 501, 377)
    if form == "cmyk":  # OpenCV is not asked
        data = encoded(photograph("retina").convert("CMYK"))
    else:
        data = encoded(photograph("retina") if form != "JPEG" else small, form)
    for seed in range(3):
        np.testing.assert_array_equal(*both(data, 224, SCALE, seed))


def test_broken_and_too_large_pictures_are_refused_as_ever() -> None:
    data = encoded(photograph("retina"))
    for broken in (
        b"",
        data[:20],
        data[: len(data) // 2],
        data.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x09"),
    ):
        with pytest.raises(BadRow):
            reduced_random_resized_crop(broken, 224, SCALE, RATIO, np.random.default_rng(0))
    frame = data.index(b"\xff\xc0")
    for height, width in ((60_000, 60_000), (0, 1411), (1411, 0)):
        announced = height.to_bytes(2, "big") + width.to_bytes(2, "big")
        changed = data[: frame + 5] + announced + data[frame + 9 :]
        with pytest.raises(BadRow):
            reduced_random_resized_crop(changed, 224, SCALE, RATIO, np.random.default_rng(0))


def test_clip_decodes_at_full_size_unless_it_is_told_to() -> None:
    row = Row("retina", {"jpg": encoded(photograph("retina")), "txt": b"a retina"}, 0)
    exact, default, reduced = (
        Prepare(config)(row, np.random.default_rng(1))
        for config in (ClipConfig(reduced_decoding=False), ClipConfig(), ClipConfig(reduced_decoding=True))
    )
    np.testing.assert_array_equal(default["image"], exact["image"])
    assert (reduced["image"] != exact["image"]).any() and psnr(reduced["image"], exact["image"]) > 42
    np.testing.assert_array_equal(reduced["text"], exact["text"])
