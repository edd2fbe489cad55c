"""ZS-N2N: noise goes, the seed decides, many are as one, kinds are kept, and a folder is restored by the job."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from tests.conftest import start_job

from lumiray.data.picture_file import Picture, png, read_picture
from lumiray.errors import UserError
from lumiray.evaluate.fit_options import read_fit_command
from lumiray.registry import config_class, fit_function, slugs, system
from lumizoo.zs_n2n.config import ZsN2nConfig
from lumizoo.zs_n2n.denoise import denoise
from lumizoo.zs_n2n.fit import fit, fit_many

SHORT = ZsN2nConfig(steps=3)


@pytest.fixture(scope="module")
def clean() -> torch.Tensor:
    """A part of a photograph, (3, 64, 64) in [0, 1]."""
    crop = data.astronaut()[:64, 192:256]
    return torch.from_numpy(crop.astype(np.float32) / 255).permute(2, 0, 1)


@pytest.fixture(scope="module")
def noisy(clean: torch.Tensor) -> torch.Tensor:
    """With noise of 25 of 255."""
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    return (clean + 25 / 255 * noise).clamp(0, 1)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(-10 * (one - other).square().mean().log10())


def test_noise_goes_and_its_level_is_found(clean: torch.Tensor, noisy: torch.Tensor) -> None:
    found = fit(noisy, ZsN2nConfig(steps=100))
    gain = psnr(found.restored, clean) - psnr(noisy, clean)
    print(f"gain {gain:.2f} dB, level {255 * found.noise_level:.1f}")
    assert gain >= 4
    assert 255 * found.noise_level == pytest.approx(23, abs=5)  # clipping takes some away
    assert len(found.losses) == 100
    assert found.losses[-1] < found.losses[0]


def test_the_seed_decides_alone(noisy: torch.Tensor) -> None:
    first = fit(noisy, SHORT)
    torch.rand(3)
    with torch.inference_mode():
        assert torch.equal(first.restored, fit(noisy, SHORT).restored)
    assert not torch.equal(first.restored, fit(noisy, ZsN2nConfig(steps=3, seed=1)).restored)


@pytest.mark.parametrize(
    "config",
    [ZsN2nConfig(steps=20), ZsN2nConfig(steps=20, average_last=5), ZsN2nConfig(steps=20, patience=2, lr=0.02)],
)
def test_many_at_once_are_as_each_alone(noisy: torch.Tensor, config: ZsN2nConfig) -> None:
    pictures = torch.stack([noisy[:, :33, :40], noisy[:, 20:53, :40].flip(1), noisy[:, :33, 24:]])
    for one, picture in zip(fit_many(pictures, config), pictures, strict=True):
        alone = fit(picture, config)
        assert len(one.losses) == len(alone.losses)
        assert torch.allclose(one.restored, alone.restored, atol=2e-4)
        assert {name: value.shape for name, value in one.weights.items()} == {
            name: value.shape for name, value in alone.weights.items()
        }


def test_patience_ends_early_with_the_best_weights(noisy: torch.Tensor) -> None:
    found = fit(noisy, ZsN2nConfig(steps=200, patience=3, lr=0.05))
    assert 3 < len(found.losses) < 200


@pytest.mark.parametrize(
    ("picture", "config"),
    [
        (torch.rand(3, 1, 8), SHORT),
        (torch.rand(3, 3, 8), ZsN2nConfig(steps=3, patience=2)),
        (255 * torch.rand(3, 8, 8), SHORT),
        (torch.full((3, 8, 8), torch.nan), SHORT),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), SHORT),
        (torch.rand(8, 8), SHORT),
    ],
)
def test_what_cannot_be_fitted_is_refused(picture: torch.Tensor, config: ZsN2nConfig) -> None:
    with pytest.raises(ValueError, match=r"0, 1\]|C, H, W|short|few"):
        fit(picture, config)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(17, 22), (17, 22, 1), (16, 21, 3), (2, 2, 3)])
def test_arrays_keep_depth_shape_and_level(kind: type, shape: tuple[int, ...]) -> None:
    top = np.iinfo(kind).max
    levels = np.random.default_rng(0).integers(top // 4, top // 2, shape, dtype=kind)
    found = denoise(levels, SHORT)
    assert (found.dtype, found.shape) == (kind, shape)
    assert abs(found.mean() - levels.mean()) < 0.3 * top


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_pictures_and_tensors_keep_their_kind(mode: str, noisy: torch.Tensor) -> None:
    kind = np.uint16 if mode == "I;16" else np.uint8
    given = Image.fromarray(np.zeros((9, 8, 3) if mode == "RGB" else (9, 8), kind))
    found = denoise(given, SHORT)
    assert (found.mode, found.size) == (mode, (8, 9))
    assert denoise(noisy, SHORT).dtype == torch.float32
    assert denoise((255 * noisy).byte()[None], SHORT).dtype == torch.uint8


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("transparent", [False, True])
def test_files_keep_depth_channels_and_profile(kind: type, channels: int, transparent: bool) -> None:
    if kind == np.uint16 and channels == 1 and transparent:
        channels = 3  # written as colour, see `png`
    levels = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (5, 7, channels), dtype=kind)
    alpha = levels[..., 0] if transparent else None
    found = read_picture(png(Picture(levels, alpha, b"what colours mean")))
    assert found.color.dtype == kind
    assert np.array_equal(found.color, levels)
    assert found.profile == b"what colours mean"
    assert alpha is None if found.alpha is None else np.array_equal(found.alpha, levels[..., 0])


def test_it_is_found_by_name_as_a_system_that_is_fitted() -> None:
    assert "zs-n2n" in slugs("fit")
    assert config_class("ZS_N2N", "fit") is ZsN2nConfig
    assert fit_function("zs-n2n") is fit_many
    with pytest.raises(UserError, match="zs-n2n is not trained"):
        system("zs-n2n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["zs-n2m", "--input", "a", "--output", "b"], "Did you mean 'zs-n2n'"),
        (["clip", "--input", "a", "--output", "b"], "clip is trained, not fitted"),
        (["--input", "a", "--output", "b"], "Say first which system"),
        (["zs-n2n", "--input", "nowhere", "--output", "b"], "nowhere"),
        (["zs-n2n", "--input", "EMPTY", "--output", "b"], "holds no picture"),
        (["zs-n2n", "--input", "EMPTY", "--output", "EMPTY/"], "is the input"),
        (["zs-n2n", "--input", "a", "--output", "b", "--steps", "9", "--average-last", "10"], "--average-last is 10"),
    ],
)
def test_bad_options_are_refused_before_anything_starts(tmp_path: Path, arguments: list[str], words: str) -> None:
    from lumiray.evaluate.fit_folder import fit_folder

    with pytest.raises(UserError, match=words) as raised:
        fit_folder(read_fit_command([one.replace("EMPTY", str(tmp_path)) for one in arguments], ""))
    assert raised.value.exit_code == 2


def test_a_folder_is_restored_but_for_what_is_broken_and_not_twice(
    tmp_path: Path, ray_address: str, noisy: torch.Tensor
) -> None:
    source, target = tmp_path / "noisy", tmp_path / "clean"
    source.mkdir()
    grey = (noisy[0, :16, :20] * 65535).round().numpy().astype(np.uint16)
    (source / "deep.tif").write_bytes(b"")
    Image.fromarray(grey).save(source / "deep.tif")
    Image.fromarray((noisy[:, :15, :18] * 255).byte().permute(1, 2, 0).numpy()).save(source / "color.png")
    (source / "broken.png").write_bytes(b"<html>404</html>")
    options = ("zs-n2n", "--input", str(source), "--steps", "5", "--workers", "1")
    code, text = start_job("restore_zero_shot.py", str(target), *options, ray_address=ray_address).finish()
    assert code == 1, text
    assert "Traceback" not in text
    assert "left out: broken.png: not a picture (16 bytes)" in text
    assert "2 restored, 1 left out, 0 already there" in text
    assert sorted(os.listdir(target)) == ["color.png", "deep.png"]
    assert read_picture((target / "deep.png").read_bytes()).color.dtype == np.uint16
    assert read_picture((target / "color.png").read_bytes()).color.shape == (15, 18, 3)
    before = (target / "deep.png").stat().st_mtime_ns
    (source / "broken.png").unlink()
    code, text = start_job("restore_zero_shot.py", str(target), *options, ray_address=ray_address).finish()
    assert code == 0, text
    assert "0 restored, 0 left out, 2 already there" in text
    assert (target / "deep.png").stat().st_mtime_ns == before
