"""CodeFormer's stages: what learns from what, when the discriminator moves, what a stage takes from the one before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as functional
from tests.zoo.codeformer_faces import TINY, batch, built
from torch import Tensor, nn

from lumiray.errors import UserError
from lumiray.registry import about
from lumiray.system import Term
from lumizoo.blocks.lpips import Lpips
from lumizoo.codeformer.config import CodeformerConfig
from lumizoo.codeformer.phases import phase_at
from lumizoo.codeformer.system import CodeformerSystem

FAITHFUL, CODES_ALONE = 3, 9  # steps of stage features with TINY
LEARNS_CODES = {"position_emb", "encoder", "feat_emb", "ft_layers", "idx_pred_layer"}


def total(terms: dict[str, Term]) -> Tensor:
    return torch.stack([one.weight * one.sum / one.count for one in terms.values()]).sum()


def moved(network: nn.Module) -> set[str]:
    """Parts in which a parameter has a gradient other than zero."""
    return {
        name.split(".")[0]
        for name, value in network.named_parameters()
        if value.grad is not None and bool(value.grad.any())
    }


def test_the_facts_and_the_published_numbers_of_the_stages() -> None:
    stages = CodeformerSystem().stages()
    assert about("codeformer").stages == {one.name: one.record for one in stages}
    told = [
        (one.name, one.start, one.steps, one.global_batch_size, [(player.name, player.start) for player in one.players])
        for one in stages
    ]
    assert told == [
        ("vqgan", None, 1_600_000, 32, [("vqgan", 0), ("discriminator", 30_001)]),
        ("codes", "vqgan", 500_000, 32, [("codeformer", 0)]),
        ("features", "codes", 150_000, 24, [("codeformer", 0), ("discriminator", 5_001)]),
    ]
    for one in stages:
        for player in one.players:
            assert player.optimizer.betas == (0.9, 0.99) and player.optimizer.weight_decay == 0
            assert (player.ema is None) == (player.name == "discriminator")


def test_stage_vqgan_trains_encoder_codebook_and_generator() -> None:
    system = built("vqgan")
    terms = system.losses("vqgan", batch(), 0)
    total(terms).backward()
    assert moved(system.networks["vqgan"]) == {"encoder", "quantize", "generator"}
    assert {name: one.weight for name, one in terms.items()} == {"l1": 1, "codebook": 1, "perplexity": 0}
    assert 1 <= terms["perplexity"].sum.item() <= 16


def test_the_adversarial_term_waits_and_is_weighed_as_two_gradients_compare() -> None:
    system, given = built("vqgan"), batch()
    assert "adversarial" not in system.losses("vqgan", dict(given), 2)
    terms = system.losses("vqgan", given, 3)
    network = system.networks["vqgan"]
    clean = given["clean"].float() / 127.5 - 1
    sizes = []
    for judged in (lambda out: (out - clean).abs().mean(), lambda out: system.networks["discriminator"](out).mean()):
        network.zero_grad()
        judged(network(clean)[0]).backward()
        sizes.append(network.generator.blocks[-1].weight.grad.norm())
    wanted = (sizes[0] / (sizes[1] + 1e-4)).clamp(0, 1)
    assert terms["adaptive_weight"].weight == 0 and terms["adversarial"].weight == 0.8
    assert terms["adaptive_weight"].sum.item() == pytest.approx(wanted.item(), rel=1e-4)
    score = -system.networks["discriminator"](given["reconstruction"]).mean()
    assert terms["adversarial"].sum.item() == pytest.approx((wanted * score).item(), rel=1e-4)


def test_the_discriminator_learns_from_stored_pictures_by_a_hinge_in_full() -> None:
    system, given = built("vqgan"), batch()
    system.losses("vqgan", given, 3)
    assert not given["reconstruction"].requires_grad
    discriminator = system.networks["discriminator"].eval()
    terms = system.losses("discriminator", given, 3)
    real = functional.relu(1 - discriminator(given["clean"].float() / 127.5 - 1)).mean()
    fake = functional.relu(1 + discriminator(given["reconstruction"])).mean()
    assert total(terms).item() == pytest.approx((real + fake).item(), rel=1e-5)
    total(terms).backward()
    assert moved(discriminator) == {"main"} and not moved(system.networks["vqgan"])


def test_codes_come_from_the_strongly_degraded_face_and_train_no_picture() -> None:
    system, given = built("codes"), batch()
    terms = system.losses("codeformer", given, 0)
    assert {name: one.weight for name, one in terms.items()} == {
        "code_feature": 1,
        "cross_entropy": 0.5,
        "code_accuracy": 0,
    }
    total(terms).backward()
    assert moved(system.networks["codeformer"]) == LEARNS_CODES
    assert all(value.grad is None for value in system.networks["target"].parameters())
    frozen = {name.split(".")[0] for name, one in system.networks.named_parameters() if not one.requires_grad}
    assert frozen == {"codeformer", "target", "discriminator"}  # of the first a part
    other = system.losses("codeformer", given | {"degraded_slightly": given["clean"]}, 0)
    assert total(other).item() == total(terms).item()


def test_targets_are_codes_of_the_clean_face_by_the_frozen_encoder() -> None:
    system, given = built("codes"), batch()
    network, target = system.networks["codeformer"], system.networks["target"]
    nn.init.normal_(target.quantize.embedding.weight)  # so that several codes are used
    network.quantize.load_state_dict(target.quantize.state_dict())
    latents = target.encoder(given["clean"].float() / 127.5 - 1).flatten(2).transpose(1, 2)
    wanted = torch.cdist(latents, target.quantize.embedding.weight).argmin(2)
    assert len(wanted.unique()) > 1
    with torch.no_grad():  # another encoder that is trained gives other latents, and the same targets
        for value in network.encoder.parameters():
            value.add_(0.1)
    degraded = network.encoder(given["degraded"].float() / 127.5 - 1).flatten(2).transpose(1, 2)
    expected = (network.quantize.embedding.weight[wanted] - degraded).square().mean()
    assert system.losses("codeformer", given, 0)["code_feature"].sum.item() == pytest.approx(expected.item(), rel=1e-4)


def test_pictures_train_the_connections_and_codes_train_the_rest() -> None:
    system = built("features")
    network = system.networks["codeformer"]
    terms = system.losses("codeformer", batch(), FAITHFUL)
    codes = {name: one for name, one in terms.items() if name in ("code_feature", "cross_entropy")}
    pictures = {name: one for name, one in terms.items() if name in ("l1", "adversarial")}
    assert len(codes) == len(pictures) == 2 and terms["adversarial"].weight == 0.1
    total(pictures).backward(retain_graph=True)
    assert moved(network) == {"fuse_convs_dict"}
    network.zero_grad()
    total(codes).backward()
    assert moved(network) == LEARNS_CODES


def test_the_adaptive_weight_of_features_compares_at_the_last_connection() -> None:
    system = built("features")
    network = system.networks["codeformer"]
    assert network.last_parameter is network.fuse_convs_dict["48"].shift[2].weight
    terms = system.losses("codeformer", batch(), FAITHFUL)
    (gradient,) = torch.autograd.grad(terms["l1"].sum, network.last_parameter, retain_graph=True)
    (weighed,) = torch.autograd.grad(terms["adversarial"].sum, network.last_parameter)
    factor = terms["adaptive_weight"].sum
    assert 0 < factor < 1
    assert factor.item() == pytest.approx((gradient.norm() / (weighed.norm() / factor + 1e-4)).item(), rel=1e-4)


def test_a_step_on_codes_alone_makes_no_picture() -> None:
    system, given = built("features"), batch()
    terms = system.losses("codeformer", given, CODES_ALONE)
    assert terms.keys() == {"code_feature", "cross_entropy", "code_accuracy"} and "reconstruction" not in given
    slightly = system.losses("codeformer", batch(), FAITHFUL)
    assert slightly["code_feature"].sum.item() != terms["code_feature"].sum.item()
    total(terms).backward()  # connections have a gradient of zero, with every optimizer
    connections = system.networks["codeformer"].fuse_convs_dict.parameters()
    assert all(value.grad is not None and not value.grad.any() for value in connections)


@pytest.mark.parametrize(
    ("iteration", "degraded", "fidelity"),
    [
        (1, "degraded_slightly", 1.0),
        (40_000, "degraded_slightly", 1.0),
        (40_001, "degraded_slightly", 1.3),
        (80_000, "degraded_slightly", 1.3),
        (80_001, "degraded", 0.0),
        (119_985, "degraded", 0.0),
        (120_000, "degraded", 0.0),  # divisible by 15
        (120_001, "degraded", 0.0),
        (120_015, "degraded_slightly", 1.3),
        (120_016, "degraded", 0.0),
        (150_000, "degraded_slightly", 1.3),
    ],
)
def test_periods_of_stage_features(iteration: int, degraded: str, fidelity: float) -> None:
    phase = phase_at("features", iteration - 1, CodeformerConfig())
    assert (phase.given, phase.fidelity) == (degraded, fidelity)


def test_the_discriminator_moves_where_there_are_pictures_and_not_before_its_time() -> None:
    def turns(system: CodeformerSystem, stage: int, steps: int) -> list[int]:
        player = system.stages()[stage].players[1]
        return [step for step in range(steps) if system.moves(player, step)]

    assert turns(built("vqgan"), 0, 6) == [3, 4, 5]
    assert turns(built("features"), 2, 31) == [2, 3, 4, 5, 6, 7, 14, 29]
    late = built("features", replace(TINY, features_gan_start=9))
    assert late.stages()[2].players[1].start == 14
    assert turns(late, 2, 31) == [14, 29]
    other = built("features")
    assert all(other.moves(other.stages()[2].players[0], step) for step in range(20))


def exported(system: CodeformerSystem) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in system.networks.state_dict().items()}


def test_each_stage_takes_over_what_the_one_before_has_learnt() -> None:
    first = built("vqgan", seed=1)
    state = exported(first)
    codes = CodeformerSystem(TINY)
    codes.build(codes.stages()[1])
    codes.networks.load_state_dict(codes.networks.state_dict() | codes.carried(codes.stages()[1], state))
    for name, value in first.networks["vqgan"].state_dict().items():
        assert torch.equal(codes.networks["codeformer"].state_dict()[name], value)
        if not name.startswith("generator"):
            assert torch.equal(codes.networks["target"].state_dict()[name], value)
    total(codes.losses("codeformer", batch(), 0)).backward()
    with torch.no_grad():
        codes.networks["codeformer"].encoder.blocks[0].weight.add_(1)
    features = CodeformerSystem(TINY)
    features.build(features.stages()[2])
    found = features.carried(features.stages()[2], exported(codes))
    assert found.keys() == features.networks.state_dict().keys()
    features.networks.load_state_dict(found)
    ours, theirs = features.networks.state_dict(), first.networks.state_dict()
    assert torch.equal(ours["discriminator.main.3.running_var"], theirs["discriminator.main.3.running_var"])
    assert torch.equal(ours["target.encoder.blocks.0.weight"], theirs["vqgan.encoder.blocks.0.weight"])
    assert not torch.equal(ours["codeformer.encoder.blocks.0.weight"], theirs["vqgan.encoder.blocks.0.weight"])


def test_files_that_are_given_win_over_the_stage_before(tmp_path: Path) -> None:
    state = exported(built("vqgan", seed=1))
    files = {name: str(tmp_path / f"{name}.pth") for name in ("vqgan", "discriminator")}
    other = built("vqgan", seed=2)
    for name, path in files.items():
        torch.save({"params_ema": other.networks[name].state_dict()}, path)
    config = replace(TINY, vqgan_weights=files["vqgan"], discriminator_weights=files["discriminator"])
    system = CodeformerSystem(config)
    system.build(system.stages()[1])
    assert torch.equal(
        system.networks["target"].encoder.blocks[0].weight, other.networks["vqgan"].encoder.blocks[0].weight
    )
    assert torch.equal(
        system.networks["codeformer"].generator.blocks[0].weight, other.networks["vqgan"].generator.blocks[0].weight
    )
    assert torch.equal(system.networks["discriminator"].main[0].weight, other.networks["discriminator"].main[0].weight)
    assert {name.split(".")[0] for name in system.carried(system.stages()[1], state)} == {"codeformer"}


@pytest.mark.parametrize("task", ["restoration", "inpainting"])
def test_a_stage_after_vqgan_takes_that_file_as_its_weights(task: str, tmp_path: Path) -> None:
    first = built("vqgan", seed=2).networks["vqgan"]
    path = str(tmp_path / "vqgan.pth")
    torch.save({"params_ema": first.state_dict()}, path)
    system = CodeformerSystem(replace(TINY, task=task, weights=path))
    networks = system.build(system.stages()[1])
    for name, value in first.state_dict().items():
        assert torch.equal(networks["codeformer"].state_dict()[name], value)
    assert torch.equal(networks["target"].quantize.embedding.weight, first.quantize.embedding.weight)
    assert system.losses("codeformer", batch(), 0)


def test_targets_are_of_their_own_file_where_the_weights_are_of_a_later_stage(tmp_path: Path) -> None:
    first, later = built("vqgan", seed=2).networks["vqgan"], built("codes", seed=3).networks["codeformer"]
    for name, network in (("vqgan", first), ("later", later)):
        torch.save(network.state_dict(), tmp_path / f"{name}.pth")
    config = replace(TINY, weights=str(tmp_path / "later.pth"), vqgan_weights=str(tmp_path / "vqgan.pth"))
    for stage in (1, 2):
        system = CodeformerSystem(config)
        networks = system.build(system.stages()[stage])
        assert torch.equal(networks["target"].encoder.blocks[0].weight, first.encoder.blocks[0].weight)
        assert torch.equal(networks["codeformer"].encoder.blocks[0].weight, later.encoder.blocks[0].weight)


@pytest.mark.parametrize("stage", [1, 2])
def test_targets_of_a_random_network_are_refused(stage: int) -> None:
    system = CodeformerSystem(TINY)
    one = system.stages()[stage]
    system.build(one)
    told = rf"Stage {one.name} has no VQGAN whose codes are its targets\. .*vqgan_code1024\.pth.*--vqgan-weights"
    with pytest.raises(UserError, match=told):
        system.losses("codeformer", batch(), 0)


def test_a_checkpoint_of_another_network_is_no_vqgan(tmp_path: Path) -> None:
    path = str(tmp_path / "whole.pth")
    torch.save(built("codes").networks["codeformer"].state_dict(), path)
    with pytest.raises(
        UserError, match=r"--vqgan-weights .*whole\.pth does not fit.*unexpected.*checkpoint of codeformer"
    ):
        built("codes", replace(TINY, vqgan_weights=path))


def lpips_files(folder: Path) -> dict[str, str]:
    torch.manual_seed(3)
    network = Lpips()
    state = {f"features.{name.removeprefix('features.')}": one for name, one in network.vgg.state_dict().items()}
    torch.save(state | {"classifier.6.bias": torch.zeros(1000)}, folder / "vgg16.pth")
    linear = {f"lin{number}.model.1.weight": one.weight.data.abs() for number, one in enumerate(network.linear)}
    torch.save(linear, folder / "vgg.pth")
    return {"vgg_weights": str(folder / "vgg16.pth"), "lpips_weights": str(folder / "vgg.pth")}


def test_the_perceptual_term_wants_its_files_in_training_with_pictures_and_nowhere_else(tmp_path: Path) -> None:
    config = replace(TINY, perceptual_weight=1.0)
    told = r"--vgg-weights is missing.*VGG16_Weights\.IMAGENET1K_V1.*--perceptual-weight 0"
    with pytest.raises(UserError, match=told):
        built("vqgan", config).losses("vqgan", batch(), 0)
    with pytest.raises(UserError, match=told):
        built("features", config).losses("codeformer", batch(), FAITHFUL)
    files = lpips_files(tmp_path)
    with pytest.raises(UserError, match=r"--lpips-weights is missing.*lpips/weights/v0\.1/vgg\.pth"):
        built("vqgan", replace(config, vgg_weights=files["vgg_weights"])).losses("vqgan", batch(), 0)
    assert built("codes", config).losses("codeformer", batch(), 0)
    assert built("vqgan", config).restore(torch.rand(3, 48, 48)).shape == (3, 48, 48)


def test_the_perceptual_term_counts_in_the_loss_and_in_the_adaptive_weight(tmp_path: Path) -> None:
    config = replace(TINY, perceptual_weight=2.0, **lpips_files(tmp_path))
    system = built("vqgan", config)
    terms = system.losses("vqgan", batch(), 3)
    assert terms["perceptual"].weight == 2.0 and terms["perceptual"].sum > 0
    last = system.networks["vqgan"].generator.blocks[-1].weight
    both = terms["l1"].sum + 2 * terms["perceptual"].sum
    sizes = [torch.autograd.grad(one, last, retain_graph=True)[0].norm() for one in (both, terms["adversarial"].sum)]
    factor = terms["adaptive_weight"].sum
    assert 0 < factor < 1
    assert factor.item() == pytest.approx((sizes[0] / (sizes[1] / factor + 1e-4)).item(), rel=1e-3)
    total(terms).backward()
    assert all(value.grad is None for value in system.networks["lpips"].parameters())
    assert all("lpips" not in player.networks for stage in system.stages() for player in stage.players)


def test_a_miniature_of_stage_vqgan_learns_to_reconstruct_with_several_codes() -> None:
    system, given = built("vqgan"), batch(4)
    optimizer = torch.optim.Adam(system.networks["vqgan"].parameters(), lr=1e-3, betas=(0.9, 0.99))
    start = system.losses("vqgan", given, 0)["l1"].sum.item()
    for _ in range(40):
        optimizer.zero_grad()
        terms = system.losses("vqgan", given, 0)
        total(terms).backward()
        optimizer.step()
    assert terms["l1"].sum.item() < 0.4 * start
    assert terms["perplexity"].sum.item() > 4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_of_every_player_is_rehearsed_without_memory(precision: str) -> None:
    from lumiray.train.rehearsal import rehearse
    from lumiray.train.without_memory import networks_without_memory

    shapes = {name: (value.shape, value.dtype) for name, value in batch().items()}
    for stage in CodeformerSystem(TINY).stages():
        for player in stage.players:
            system = CodeformerSystem(TINY)
            networks_without_memory(system, stage)
            cost = rehearse(system, stage, player, shapes, 1, 1, precision)
            assert cost.flops > 0 and cost.bytes > 0
