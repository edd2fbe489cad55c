"""A picture comes back in the kind it was given in; other things are refused with what is taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lumiray.errors import UserError
from lumizoo.blocks.pictures import pad_to_multiple, through

LEVELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def inverted(pictures: torch.Tensor) -> torch.Tensor:
    assert pictures.dtype == torch.float32 and pictures.ndim == 4 and pictures.shape[1] == 3
    assert pictures.min() >= 0 and pictures.max() <= 1
    return 1 - pictures


def test_arrays_and_pil_pictures_come_back_as_such() -> None:
    array = through(LEVELS, inverted)
    assert isinstance(array, np.ndarray) and array.dtype == np.uint8 and array.flags.c_contiguous
    assert np.array_equal(array, 255 - LEVELS)
    picture = through(Image.fromarray(LEVELS), inverted)
    assert isinstance(picture, Image.Image) and picture.mode == "RGB"
    assert np.array_equal(np.asarray(picture), 255 - LEVELS)


def test_pil_pictures_keep_their_mode_and_rare_modes_get_the_nearest_plain_one() -> None:
    for mode, becomes in {"L": "L", "LA": "LA", "RGBA": "RGBA", "P": "RGB", "1": "L", "CMYK": "RGB"}.items():
        result = through(Image.fromarray(LEVELS).convert(mode), inverted)
        assert (result.mode, result.size) == (becomes, (7, 5))
    with pytest.raises(UserError, match=r"mode is I;16; give more than 8 bits as a tensor"):
        through(Image.fromarray(np.zeros((5, 7), np.uint16)), inverted)


def test_transparency_is_left_alone_and_grey_stays_grey() -> None:
    alpha = LEVELS[..., :1]
    result = through(np.concatenate([LEVELS, alpha], 2), inverted)
    assert np.array_equal(result, np.concatenate([255 - LEVELS, alpha], 2))
    for grey in (LEVELS[..., 0], LEVELS[..., :1]):
        assert np.array_equal(through(grey, inverted), 255 - grey)
    both = LEVELS[..., :2]
    assert np.array_equal(through(both, inverted), np.concatenate([255 - both[..., :1], both[..., 1:]], 2))
    tensor = torch.from_numpy(both.copy()).permute(2, 0, 1)[None] / 255
    assert torch.equal(through(tensor, inverted)[:, 1:], tensor[:, 1:])


def test_grey_is_made_of_changed_colours_by_their_brightness() -> None:
    def red(pictures: torch.Tensor) -> torch.Tensor:
        return pictures * torch.tensor([1.0, 0.0, 0.0])[:, None, None]

    assert (through(np.full((2, 2), 100, np.uint8), red) == 30).all()


def test_views_and_read_only_arrays_are_taken_and_left_alone() -> None:
    frozen = LEVELS.copy()
    frozen.flags.writeable = False
    assert np.array_equal(through(frozen, inverted), 255 - LEVELS)
    assert np.array_equal(through(LEVELS[::-1, ::2], inverted), 255 - LEVELS[::-1, ::2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 3, 5, 7)])
def test_tensors_keep_shape_and_dtype(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    values = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1))
    given = values.to(dtype) if dtype == torch.uint8 else (values / 255).to(dtype)
    result = through(given, inverted)
    assert (result.dtype, result.shape) == (dtype, given.shape)
    expected = 255 - given if dtype == torch.uint8 else (1 - given.float()).to(dtype)
    assert torch.equal(result, expected)


def test_eight_bit_results_are_rounded_or_cut_off_and_clamped() -> None:
    def between(pictures: torch.Tensor) -> torch.Tensor:
        return torch.full_like(pictures, 100.7 / 255)

    assert (through(LEVELS, between) == 101).all()
    assert (through(LEVELS, between, truncate=True) == 100).all()
    assert (through(LEVELS, lambda pictures: pictures + 2) == 255).all()
    assert float(through(torch.zeros(3, 2, 2), lambda pictures: pictures - 1).min()) == 0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (LEVELS / 255, r"float64 array of shape \(5, 7, 3\); arrays are uint8 \(H, W\)"),
        (LEVELS[..., [0, 1, 2, 0, 1]], r"uint8 array of shape \(5, 7, 5\)"),
        (torch.zeros(5, 7, 3), r"shape \(5, 7, 3\); it must be \(C, H, W\)"),
        (torch.zeros(3, 0, 4), r"shape \(3, 0, 4\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "int64; it must be floating"),
        (torch.full((3, 4, 4), 255.0), r"from 255 to 255; .* Divide 8-bit levels by 255"),
        (torch.full((3, 4, 4), float("nan")), "from nan to nan"),
        ("photo.png", "not a str"),
    ],
)
def test_what_is_no_picture_is_refused_with_what_is_taken(given: object, told: str) -> None:
    with pytest.raises(UserError, match=told):
        through(given, inverted)


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (3, 8), (16, 5), (7, 13)])
def test_padding_reflects_at_the_right_and_the_bottom_as_numpy_does(size: tuple[int, int]) -> None:
    values = torch.arange(3.0 * size[0] * size[1]).view(1, 3, *size)
    height, width = (-(-side // 8) * 8 for side in size)
    padded = pad_to_multiple(values, 8)
    margins = ((0, 0), (0, 0), (0, height - size[0]), (0, width - size[1]))
    assert np.array_equal(padded.numpy(), np.pad(values.numpy(), margins, mode="reflect"))
