"""HVI-CIDNet beyond its published numbers: training, odd pictures, files of weights, rows of shards."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lumizoo
from lumiray.errors import UserError
from lumiray.system import BadRow, Row
from lumizoo.cidnet.colour import Hvi
from lumizoo.cidnet.config import CidnetConfig
from lumizoo.cidnet.losses import laplacian, ssim
from lumizoo.cidnet.system import CidnetSystem
from lumizoo.cidnet.vgg import Vgg19

TINY = CidnetConfig(channels=(4, 4, 8, 8), heads=(1, 2, 2, 4), crop_size=32, perceptual_weight=0.0)


def built(config: CidnetConfig = TINY) -> CidnetSystem:
    torch.manual_seed(0)
    system = CidnetSystem(config)
    system.build(system.stages()[0])
    return system


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Soft colours, as photographs have, with a little grain; uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(30, 226, (4, 4, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + rng.integers(-4, 5, smooth.shape), 0, 255).astype(np.uint8)


def dark(picture: np.ndarray) -> np.ndarray:
    return (picture * 0.2).astype(np.uint8)


def batch() -> dict[str, torch.Tensor]:
    picture = photo(32, 32)
    return {
        name: torch.from_numpy(one.transpose(2, 0, 1).copy())[None]
        for name, one in {"lq": dark(picture), "gt": picture}.items()
    }


def total(system: CidnetSystem) -> torch.Tensor:
    return torch.stack([one.weight * one.sum / one.count for one in system.losses("cidnet", batch(), 0).values()]).sum()


def test_steps_on_one_pair_lower_the_loss_and_reach_the_exponent() -> None:
    system = built()
    network = system.networks["cidnet"]
    optimizer = torch.optim.SGD(network.parameters(), lr=3e-2)
    first = last = total(system)
    for _ in range(6):
        optimizer.zero_grad()
        last.backward()
        optimizer.step()
        last = total(system)
    assert last.item() < 0.9 * first.item()
    assert float(network.trans.density_k.grad.abs()) > 1e-6


def test_every_parameter_learns_but_those_of_the_block_that_is_computed_for_nothing() -> None:
    system = built()
    total(system).backward()
    network = system.networks["cidnet"]
    idle = {name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()}
    assert idle == {name for name, _ in network.named_parameters() if name.startswith("I_LCA5.")}


def test_the_exponent_learns_from_the_reference_and_not_from_the_inverse() -> None:
    transform = Hvi()
    pictures = torch.rand(1, 3, 4, 4)
    (back,) = torch.autograd.grad(transform(pictures).square().sum(), transform.density_k)
    assert float(back.abs()) > 0
    assert not transform.inverse(torch.rand(1, 3, 4, 4)).requires_grad


def test_a_hue_that_rounds_to_a_whole_turn_is_red_and_not_black() -> None:
    transform = Hvi()
    transform(torch.zeros(1, 3, 1, 1))
    for small in (-1e-8, -2e-8, -5e-8, -1e-7):
        pixel = torch.tensor([0.5, small, 0.5]).view(1, 3, 1, 1)
        red, green, blue = transform.inverse(pixel).flatten().tolist()
        assert red == 0.5 and green < 0.3 and blue < 0.3, small


def test_colours_survive_the_way_there_and_back() -> None:
    transform = Hvi()
    levels = torch.tensor([0.0, 0.25, 0.5, 1.0])
    pictures = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 8, 8)
    assert torch.allclose(transform.inverse(transform(pictures)), pictures, atol=2e-4)


def test_gradients_are_finite_on_black_white_grey_and_pure_colours() -> None:
    levels = torch.tensor([0.0, 0.5, 1.0, 0.5])
    pictures = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 8, 8).requires_grad_()
    transform = Hvi()
    transform.inverse(transform(pictures)).sum().backward()
    assert torch.isfinite(pictures.grad).all()


def test_terms_vanish_for_equal_pictures_and_a_flat_picture_has_no_edges() -> None:
    pictures = torch.rand(1, 3, 16, 16)
    assert float(ssim(pictures, pictures)) == pytest.approx(1, abs=1e-5)
    assert float(laplacian(torch.full((1, 3, 16, 16), 0.4))[..., 4:-4, 4:-4].abs().max()) < 1e-6


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (16, 24)])
def test_pictures_of_any_size_come_back_in_their_size_and_kind(size: tuple[int, int]) -> None:
    system = built()
    array = system.restore(dark(photo(*size)))
    assert isinstance(array, np.ndarray) and (array.dtype, array.shape) == (np.uint8, (*size, 3))
    picture = system.restore(Image.fromarray(dark(photo(*size))))
    assert isinstance(picture, Image.Image) and np.array_equal(np.asarray(picture), array)
    tensor = system.restore(torch.rand(2, 3, *size))
    assert tensor.shape == (2, 3, *size) and not tensor.requires_grad
    assert tensor.min() >= 0 and tensor.max() <= 1 and torch.isfinite(tensor).all()


def test_factors_of_use_change_saturation_and_intensity_and_not_training() -> None:
    given = torch.from_numpy(photo(16, 16)).permute(2, 0, 1) / 255
    plain, training = built().restore(given), total(built())
    half = built(replace(TINY, alpha=0.5))
    assert torch.allclose(half.restore(given), plain / 2, atol=1e-6)
    grey = built(replace(TINY, alpha_s=0.0)).restore(given)
    assert torch.allclose(grey.amax(0), grey.amin(0)) and not torch.allclose(plain.amax(0), plain.amin(0))
    assert not torch.allclose(built(replace(TINY, gamma=0.5)).restore(given), plain, atol=1e-3)
    for setting in ({"alpha": 0.5}, {"alpha_s": 2.0}, {"gamma": 0.5}):
        assert torch.equal(total(built(replace(TINY, **setting))), training)


def test_a_random_gamma_follows_torch_s_generator() -> None:
    system = built(replace(TINY, random_gamma=True))
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(total(system).item())
    assert values[0] == values[1] != values[2]


def test_a_checkpoint_goes_out_and_in_under_published_names(tmp_path: Path) -> None:
    system = built()
    state = {f"cidnet.{name}": value for name, value in system.networks["cidnet"].state_dict().items()}
    published = system.published_state(state | {"vgg.features.0.bias": torch.zeros(64)})
    assert {"trans.density_k", "HV_LCA1.gdfn.project_in.weight", "ID_block3.up_scale.0.weight"} <= published.keys()
    torch.save({"state_dict": published}, tmp_path / "own.pth")
    torch.manual_seed(5)  # other weights, if the file were not read
    loaded = lumizoo.load("cidnet", **{**vars(TINY), "weights": str(tmp_path / "own.pth")})
    assert not loaded.networks.training
    picture = dark(photo(9, 10))
    assert np.array_equal(loaded.restore(picture), system.restore(picture))


def test_weights_of_another_network_are_refused_with_names(tmp_path: Path) -> None:
    state = built().networks["cidnet"].state_dict()
    state["trans.other"] = state.pop("trans.density_k")
    torch.save(state, tmp_path / "other.pth")
    told = r"other\.pth does not fit the model: 1 missing: trans\.density_k; 1 unexpected: trans\.other"
    with pytest.raises(UserError, match=told):
        built(replace(TINY, weights=str(tmp_path / "other.pth")))


def test_the_perceptual_term_wants_vgg_s_file_before_a_job_and_in_training_but_not_in_use(tmp_path: Path) -> None:
    told = r"--vgg-weights is missing.*VGG19_Weights\.IMAGENET1K_V1.*--perceptual-weight 0"
    system = built(replace(TINY, perceptual_weight=0.01))
    with pytest.raises(UserError, match=told):
        system.portable()
    with pytest.raises(UserError, match=told):
        total(system)
    assert system.restore(torch.rand(3, 8, 8)).shape == (3, 8, 8)
    with pytest.raises(UserError, match=r"--vgg-weights .*nowhere\.pth: no such file"):
        CidnetSystem(replace(system.config, vgg_weights=str(tmp_path / "nowhere.pth"))).portable()


def test_the_perceptual_term_reads_torchvision_s_layout_and_leaves_vgg_alone(tmp_path: Path) -> None:
    state = Vgg19().state_dict() | {"classifier.6.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "vgg.pth")
    system = built(replace(TINY, perceptual_weight=0.01, vgg_weights=str(tmp_path / "vgg.pth")))
    terms = system.losses("cidnet", batch(), 0)
    assert terms["perceptual_rgb"].weight == terms["perceptual_hvi"].weight == 0.01
    terms["perceptual_rgb"].sum.backward()
    assert system.networks["cidnet"].IE_block0[1].weight.grad.any()
    assert all(value.grad is None for value in system.networks["vgg"].parameters())
    (player,) = system.stages()[0].players
    assert player.networks == ("cidnet",)  # VGG is in no checkpoint
    del state["features.25.weight"]
    torch.save(state, tmp_path / "vgg.pth")
    with pytest.raises(UserError, match=r"--vgg-weights .* does not fit the model: 1 missing: features\.25\.weight"):
        built(system.config)


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def row(**parts: np.ndarray) -> Row:
    return Row("key", {f"{half}.png": png(picture) for half, picture in parts.items()}, 0)


def prepared(given: Row, seed: int | None = None) -> dict[str, np.ndarray]:
    system = CidnetSystem(TINY)
    return system.prepare(system.stages()[0], given, None if seed is None else np.random.default_rng(seed))


def test_both_halves_get_the_same_crop_and_flips_from_the_generator() -> None:
    picture = np.random.default_rng(3).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    pair = row(lq=255 - picture, gt=picture)
    seen = set()
    for seed in range(20):
        one, again = prepared(pair, seed), prepared(pair, seed)
        assert one.keys() == {"lq", "gt"}
        assert all((value.shape, value.dtype) == ((3, 32, 32), np.uint8) for value in one.values())
        assert np.array_equal(255 - one["lq"], one["gt"])
        assert all(np.array_equal(one[name], again[name]) for name in one)
        seen.add(one["gt"].tobytes())
    assert len(seen) > 15
    turned = {
        (vertical, horizontal)
        for seed in range(20)
        for vertical in (1, -1)
        for horizontal in (1, -1)
        if crop_is_in(prepared(pair, seed)["gt"][:, ::vertical, ::horizontal], picture)
    }
    assert len(turned) == 4


def crop_is_in(crop: np.ndarray, picture: np.ndarray) -> bool:
    windows = np.lib.stride_tricks.sliding_window_view(picture.transpose(2, 0, 1), crop.shape[1:], axis=(1, 2))
    return bool((windows == crop[:, None, None]).all(axis=(0, 3, 4)).any())


def test_evaluation_leaves_pictures_whole() -> None:
    picture = photo(21, 50)  # less than the crop on one side
    whole = prepared(row(lq=dark(picture), gt=picture))
    assert np.array_equal(whole["gt"], picture.transpose(2, 0, 1))
    assert np.array_equal(whole["lq"], dark(picture).transpose(2, 0, 1))
    with pytest.raises(BadRow, match="50 x 10 pixels, fewer than SSIM's window of 11 x 11"):
        prepared(row(lq=photo(10, 50), gt=photo(10, 50)))


def test_whole_pictures_of_several_sizes_are_no_batch() -> None:
    rows = [prepared(row(lq=photo(*size), gt=photo(*size))) for size in ((20, 50), (30, 40))]
    system = built()
    assert [one.evaluation_batch_size for one in system.stages()] == [1]
    assert system.collate(rows[:1])["lq"].shape == (1, 3, 20, 50)
    told = r"lq of one batch has the shapes \(3, 20, 50\) and \(3, 30, 40\).*--evaluate.batch-size 1"
    with pytest.raises(UserError, match=told):
        system.collate(rows)


def test_what_evaluation_compares_is_the_result_as_it_is_saved() -> None:
    system = built()
    picture = photo(13, 18)
    given = {name: torch.from_numpy(one)[None] for name, one in prepared(row(lq=dark(picture), gt=picture)).items()}
    found = system.embed(given)
    assert {name: (value.dtype, value.shape) for name, value in found.items()} == dict.fromkeys(
        ("restored", "reference"), (torch.uint8, (1, 3, 13, 18))
    )
    assert np.array_equal(found["restored"][0].permute(1, 2, 0).numpy(), system.restore(dark(picture)))
    assert np.array_equal(found["reference"][0].permute(1, 2, 0).numpy(), picture)


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (row(lq=photo(40, 50), gt=photo(50, 40)), "lq has 50 x 40 pixels and gt 40 x 50"),
        (row(lq=photo(40, 50)), r"no picture gt\.\* \(it has lq\.png\)"),
        (row(gt=photo(40, 50)), r"no picture lq\.\*"),
        (row(lq=photo(40, 9), gt=photo(40, 9)), "9 x 40 pixels, fewer than "),
        (Row("key", {"lq.png": png(photo(40, 40)), "gt.png": b"broken"}, 0), r"^gt\.png: not a picture"),
    ],
)
def test_pairs_that_cannot_be_used_say_why(bad: Row, told: str, seed: int | None) -> None:
    with pytest.raises(BadRow, match=told):
        prepared(bad, seed)


def test_a_pair_must_hold_a_training_crop() -> None:
    with pytest.raises(BadRow, match="31 x 40 pixels, fewer than the crop of 32 x 32"):
        prepared(row(lq=photo(40, 31), gt=photo(40, 31)), seed=0)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"crop_size": 100}, "--crop-size is 100; it must be a multiple of 8"),
        ({"pad_multiple": 0}, "--pad-multiple is 0"),
        ({"heads": (1, 2, 5, 8)}, "--heads 5 does not divide --channels 72"),
        ({"edge_weight": -1.0}, "--edge-weight is -1.0; it must be at least 0"),
        ({"gamma": 0.0}, "--gamma is 0.0"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_option(setting: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        CidnetConfig(**setting)


def test_a_step_is_rehearsed_without_memory(tmp_path: Path) -> None:
    from lumiray.train.rehearsal import rehearse
    from lumiray.train.without_memory import networks_without_memory

    torch.save(Vgg19().state_dict(), tmp_path / "vgg.pth")
    system = CidnetSystem(replace(TINY, perceptual_weight=0.01, vgg_weights=str(tmp_path / "vgg.pth")))
    (stage,) = system.stages()
    networks_without_memory(system, stage)
    shapes = dict.fromkeys(("lq", "gt"), ((2, 3, 32, 32), torch.uint8))
    cost = rehearse(system, stage, stage.players[0], shapes, 1, 1, "bf16")
    assert cost.flops > 0 and cost.bytes > 0


def test_systems_that_restore_nothing_say_so() -> None:
    from lumiray.registry import system

    with pytest.raises(TypeError, match="clip restores no pictures"):
        system("clip").restore(torch.zeros(1, 3, 8, 8))
