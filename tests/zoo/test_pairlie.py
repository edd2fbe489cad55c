"""PairLIE beyond its published numbers: what each loss moves, training, odd pictures, files of weights."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.zoo.dark_scenes import TINY, built, exposed, photo
from torch import Tensor

import lumizoo
from lumiray.errors import UserError
from lumiray.registry import about
from lumizoo.pairlie.config import PairlieConfig
from lumizoo.pairlie.losses import exposure_terms, smoothness
from lumizoo.pairlie.network import PairLIE
from lumizoo.pairlie.system import PairlieSystem


def scene_batch(*factors: float, scenes: int = 1, side: int = 24) -> dict[str, Tensor]:
    """uint8 exposures (B, K, 3, S, S)."""
    pictures = [
        np.stack([exposed(photo(side, side, seed), factor) for factor in factors]).transpose(0, 3, 1, 2)
        for seed in range(scenes)
    ]
    return {"exposures": torch.from_numpy(np.stack(pictures))}


def total(system: PairlieSystem, batch: dict[str, Tensor]) -> Tensor:
    return torch.stack([one.weight * one.sum / one.count for one in system.losses("pairlie", batch, 0).values()]).sum()


def published_total(network: PairLIE, im1: Tensor, im2: Tensor) -> Tensor:
    """The loss of a pair word for word as the card has it (card pairlie, Losses)."""
    x1, x2 = (torch.sigmoid(network.N_net.N_net(one)) for one in (im1, im2))
    l1 = torch.sigmoid(network.L_net.L_net(x1))
    r1, r2 = (torch.sigmoid(network.R_net.R_net(one)) for one in (x1, x2))
    c = ((r1 - r2) ** 2).mean()
    tv = (l1[:, :, 2:, :] - l1[:, :, :-2, :]).abs().mean() + (l1[:, :, :, 2:] - l1[:, :, :, :-2]).abs().mean()
    r = ((l1 * r1 - x1) ** 2).mean() + ((r1 - x1 / l1.detach()) ** 2).mean()
    r = r + ((l1 - im1.max(1, keepdim=True)[0]) ** 2).mean() + tv
    return c + r + 500 * ((im1 - x1) ** 2).mean()


def gradients(system: PairlieSystem, value: Tensor) -> dict[str, Tensor]:
    named = dict(system.networks["pairlie"].named_parameters())
    found = torch.autograd.grad(value, list(named.values()), allow_unused=True, retain_graph=True)
    return {name: one for name, one in zip(named, found, strict=True) if one is not None and one.any()}


def test_two_exposures_give_the_published_loss_and_its_gradients() -> None:
    system = built()
    given = scene_batch(0.3, 0.15)
    first, second = (given["exposures"][:, place].float() / 255 for place in (0, 1))
    ours, theirs = total(system, given), published_total(system.networks["pairlie"], first, second)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    wanted = gradients(system, theirs)
    found = gradients(system, ours)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-5 * float(value.abs().max())), name


def test_three_exposures_average_the_pairs_and_leave_the_other_terms_to_the_first() -> None:
    system = built(replace(TINY, exposures=3))
    given = scene_batch(0.3, 0.15, 0.45)
    terms = system.losses("pairlie", given, 0)
    of_pairs = {
        pair: system.losses("pairlie", {"exposures": given["exposures"][:, list(pair)]}, 0)
        for pair in combinations(range(3), 2)
    }
    mean = torch.stack([one["consistency"].sum for one in of_pairs.values()]).mean()
    assert terms["consistency"].sum.item() == pytest.approx(mean.item(), rel=1e-5, abs=0)
    for name in terms.keys() - {"consistency"}:
        assert terms[name].sum.item() == pytest.approx(of_pairs[0, 1][name].sum.item(), rel=1e-5, abs=0), name


def test_the_order_matters_for_all_terms_but_the_consistency() -> None:
    system = built()
    there = system.losses("pairlie", scene_batch(0.3, 0.15), 0)
    back = system.losses("pairlie", scene_batch(0.15, 0.3), 0)
    same = {name for name in there if torch.allclose(there[name].sum, back[name].sum, rtol=1e-5, atol=0)}
    assert same == {"consistency"}


def test_scenes_of_a_batch_are_averaged_and_not_mixed() -> None:
    system = built()
    both = scene_batch(0.3, 0.15, scenes=2)
    alone = [total(system, {"exposures": both["exposures"][place, None]}).item() for place in (0, 1)]
    assert total(system, both).item() == pytest.approx(sum(alone) / 2, rel=1e-5)
    assert alone[0] != pytest.approx(alone[1], rel=1e-3)


def test_the_quotient_moves_the_reflectance_and_not_the_illumination() -> None:
    system = built()
    terms = system.losses("pairlie", scene_batch(0.3, 0.15), 0)
    reached = {
        name: {tensor.partition(".")[0] for tensor in gradients(system, term.sum)} for name, term in terms.items()
    }
    assert reached == {
        "consistency": {"R_net", "N_net"},
        "recomposition": {"L_net", "R_net", "N_net"},
        "reflectance": {"R_net", "N_net"},  # the illumination is stopped
        "illumination": {"L_net", "N_net"},
        "smoothness": {"L_net", "N_net"},
        "projection": {"N_net"},
    }


def test_gradient_of_the_consistency_flows_into_both_exposures() -> None:
    torch.manual_seed(0)
    exposures = torch.rand(1, 2, 3, 16, 16, requires_grad=True)
    exposure_terms(TINY, PairLIE(6), exposures)["consistency"].sum.backward()
    assert all(exposures.grad[:, place].any() for place in (0, 1))


def test_smoothness_skips_a_pixel() -> None:
    stripes = torch.tensor([0.2, 0.8]).repeat(4).expand(1, 1, 6, 8)
    assert smoothness(stripes).item() == 0
    ramp = torch.arange(5.0).expand(1, 1, 5, 5) / 10
    assert smoothness(ramp).item() == pytest.approx(0.2)


def test_weights_of_the_settings_are_those_of_the_terms() -> None:
    config = replace(TINY, consistency_weight=2.0, retinex_weight=3.0, projection_weight=5.0)
    found = {name: term.weight for name, term in built(config).losses("pairlie", scene_batch(0.3, 0.2), 0).items()}
    assert found.pop("consistency") == 2 and found.pop("projection") == 5
    assert len(found) == 4 and set(found.values()) == {3}


def test_a_dark_scene_trains_for_a_hundred_steps_and_brightens_another() -> None:
    system = built(replace(TINY, width=16), gain=1)
    # as published but for the rate: a hundred steps are few
    optimizer = torch.optim.Adam(system.networks.parameters(), lr=3e-3)
    given = scene_batch(0.35, 0.15, scenes=4)
    before = {name: term.sum.item() for name, term in system.losses("pairlie", given, 0).items()}
    first = last = total(system, given)
    for _ in range(100):
        optimizer.zero_grad()
        last.backward()
        optimizer.step()
        last = total(system, given)
    assert last.item() < 0.1 * first.item()
    after = {name: term.sum.item() for name, term in system.losses("pairlie", given, 0).items()}
    assert after["projection"] < 0.1 * before["projection"]
    assert after["recomposition"] < 0.1 * before["recomposition"]
    bright = photo(40, 40, seed=9)
    dark = exposed(bright, 0.25)
    errors = [np.abs(one.astype(float) - bright).mean() for one in (dark, system.restore(dark))]
    assert errors[1] < 0.6 * errors[0]


def test_what_is_published_is_what_the_stage_says() -> None:
    (stage,) = PairlieSystem().stages()
    (player,) = stage.players
    assert (stage.steps, stage.global_batch_size, stage.start) == (129_600, 1, None)
    assert (player.optimizer.lr, player.optimizer.betas, player.optimizer.weight_decay) == (1e-4, (0.9, 0.999), 0)
    assert (player.schedule.milestones, player.schedule.factor) == ((32_400, 64_800, 97_200), 0.5)
    facts = about("pairlie")
    assert facts.stages == {stage.name: stage.record}
    network = built(PairlieConfig()).networks["pairlie"]
    assert set(facts.tensors) <= network.state_dict().keys()
    assert sum(value.numel() for value in network.parameters()) == 341_767


def test_a_pixel_depends_on_its_receptive_field() -> None:
    system = built()
    before = torch.rand(1, 3, 41, 41) / 2
    after = before.clone()
    after[..., 20, 20] += 0.5
    changed = (system.restore(before) != system.restore(after)).any(1)[0].nonzero() - 20
    assert 2 * int(changed.abs().max()) + 1 == system.receptive_field == 21


def test_tiles_give_the_picture_that_comes_in_one_piece() -> None:
    from lumiray.evaluate.tiling import restore_tiled, tiling_of

    system = built()
    picture = exposed(photo(70, 93), 0.3)
    tiling = tiling_of(48, system.receptive_field, system.multiple)
    assert tiling.count(70, 93) > 4
    tiled = restore_tiled(system.restore, picture, tiling, system.truncates)
    # cut off levels differ by one where a value lies on a level
    assert np.abs(tiled.astype(int) - system.restore(picture)).max() <= 1
    assert (tiled != system.restore(picture)).mean() < 0.01


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (7, 13), (16, 24)])
def test_pictures_of_any_size_come_back_in_their_size_and_kind(size: tuple[int, int]) -> None:
    system = built()
    array = system.restore(exposed(photo(*size), 0.2))
    assert isinstance(array, np.ndarray) and (array.dtype, array.shape) == (np.uint8, (*size, 3))
    picture = system.restore(Image.fromarray(exposed(photo(*size), 0.2)))
    assert isinstance(picture, Image.Image) and np.array_equal(np.asarray(picture), array)
    tensor = system.restore(torch.rand(2, 3, *size))
    assert tensor.shape == (2, 3, *size) and not tensor.requires_grad
    assert tensor.min() > 0 and tensor.max() < 1


def test_levels_are_cut_off_and_a_smaller_exponent_is_brighter() -> None:
    dark = torch.from_numpy(exposed(photo(16, 16), 0.2)).permute(2, 0, 1)
    system, brighter = built(), built(replace(TINY, exponent=0.14))
    exact = system.restore(dark / 255)
    assert torch.equal(system.restore(dark), (exact * 255).floor().to(torch.uint8))
    assert (brighter.restore(dark / 255) > exact).all()
    given = scene_batch(0.3, 0.2)
    assert torch.equal(total(system, given), total(brighter, given))  # training does not read it


def test_the_parts_of_a_picture_make_the_enhanced_one() -> None:
    system = built()
    given = torch.rand(2, 3, 9, 12) / 3
    parts = system.decompose(given)
    assert list(parts) == ["illumination", "reflectance", "projected"]
    assert all(one.shape == given.shape for one in parts.values())
    assert torch.equal(parts["illumination"][:, 0], parts["illumination"][:, 2])
    assert torch.allclose(parts["illumination"] ** 0.2 * parts["reflectance"], system.restore(given))
    assert torch.equal(parts["projected"], system.networks["pairlie"].N_net(given))
    picture = Image.fromarray(exposed(photo(9, 12), 0.2))
    of_file = system.decompose(picture)
    assert all((one.mode, one.size) == ("RGB", picture.size) for one in of_file.values())


def test_sixteen_bits_hold_a_dark_illumination() -> None:
    system = built()
    system.networks.half()
    with torch.no_grad():
        system.networks["pairlie"].L_net.L_net[13].bias.fill_(-20)  # an illumination of 2e-9, which is 0 in 16 bits
    terms = system.losses("pairlie", scene_batch(0.3, 0.15), 0)
    assert all(term.sum.dtype == torch.float32 and torch.isfinite(term.sum) for term in terms.values())
    assert system.restore(torch.rand(3, 8, 8)).dtype == torch.float32


def test_a_checkpoint_goes_out_and_in_under_published_names(tmp_path: Path) -> None:
    system = built()
    state = {f"pairlie.{name}": value for name, value in system.networks["pairlie"].state_dict().items()}
    published = system.published_state(state)
    assert list(published) == [
        f"{one}_net.{one}_net.{number}.{kind}"
        for one in "LRN"
        for number in (1, 4, 7, 10, 13)
        for kind in ("weight", "bias")
    ]
    torch.save(published, tmp_path / "own.pth")  # bare, as published
    torch.manual_seed(5)  # other weights, if the file were not read
    loaded = lumizoo.load("pairlie", **{**vars(TINY), "weights": str(tmp_path / "own.pth")})
    picture = exposed(photo(9, 10), 0.2)
    assert np.array_equal(loaded.restore(picture), system.restore(picture))


def test_weights_that_do_not_fit_are_refused_with_what_they_look_like(tmp_path: Path) -> None:
    other = lumizoo.load("cidnet", channels=(4, 4, 8, 8), heads=(1, 2, 2, 4)).networks["cidnet"].state_dict()
    torch.save(other, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth does not fit the model: 30 missing.*a checkpoint of cidnet\."):
        built(replace(TINY, weights=str(tmp_path / "other.pth")))
    torch.save(built().networks["pairlie"].state_dict(), tmp_path / "small.pth")
    with pytest.raises(
        UserError, match=r"small\.pth does not fit the model: .*L_net\.L_net\.1\.bias \(6,\) for \(8,\)"
    ):
        built(replace(TINY, width=8, weights=str(tmp_path / "small.pth")))
    with pytest.raises(UserError, match=r"--weights .*nowhere\.pth: no such file"):
        PairlieSystem(replace(TINY, weights=str(tmp_path / "nowhere.pth"))).portable()


def test_a_step_is_rehearsed_without_memory() -> None:
    from lumiray.train.rehearsal import rehearse
    from lumiray.train.without_memory import networks_without_memory

    system = PairlieSystem(TINY)
    (stage,) = system.stages()
    networks_without_memory(system, stage)
    cost = rehearse(system, stage, stage.players[0], {"exposures": ((2, 2, 3, 24, 24), torch.uint8)}, 1, 1, "bf16")
    assert cost.flops > 0 and cost.bytes > 0
