"""CodeFormer's networks beyond their published numbers: counts, odd sizes, codes, connections; LPIPS and VGG."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.zoo.codeformer_faces import TINY
from torch import nn

from lumiray.errors import UserError
from lumizoo.blocks.lpips import Lpips, load_lpips, lpips_of_levels
from lumizoo.blocks.vgg import Vgg, load_vgg
from lumizoo.codeformer.config import CodeformerConfig
from lumizoo.codeformer.discriminator import BatchNorm, Discriminator
from lumizoo.codeformer.losses import adaptive_weight, codebook_loss, perceptual_loss, perplexity
from lumizoo.codeformer.network import CodeFormer, FeatureTransform, TransformerLayer
from lumizoo.codeformer.vqgan import Quantizer, Vqgan


def parameters(network: nn.Module) -> int:
    return sum(value.numel() for value in network.parameters())


def test_sizes_and_places_are_the_published_ones() -> None:
    with torch.device("meta"):
        network, discriminator = CodeFormer(CodeformerConfig()), Discriminator(64)
    parts = [network.encoder, network.quantize, network.generator, network]
    assert [parameters(one) for one in parts] == [29_416_000, 262_144, 34_061_955, 94_112_707]
    assert len(network.state_dict()) == 515 and parameters(discriminator) == 6_960_961
    assert sum(value.numel() for value in network.parameters() if value.requires_grad) == 59_788_608
    assert network.encoder.taps == [2, 5, 8, 11, 14, 18]
    assert network.generator.taps == [21, 18, 15, 12, 9, 6]
    assert parameters(network.fuse_convs_dict) == 10_659_584
    assert discriminator(torch.zeros(1, 3, 512, 512, device="meta")).shape == (1, 1, 30, 30)


def test_other_codebooks_and_connections_are_those_of_colourisation_and_inpainting() -> None:
    with torch.device("meta"):
        network = CodeFormer(CodeformerConfig(codebook_size=512, connections=(32, 64, 128)))
    assert network.quantize.embedding.weight.shape == (512, 256)
    assert list(network.fuse_convs_dict) == ["32", "64", "128"]


def test_the_vqgan_takes_any_size_and_loses_what_is_no_multiple() -> None:
    network = Vqgan(TINY)
    assert network(torch.zeros(1, 3, 31, 50))[0].shape == (1, 3, 24, 48)


def test_gradient_passes_the_codebook_as_if_it_were_not_there() -> None:
    quantizer = Quantizer(6, 3)
    latents = torch.randn(2, 3, 4, 5, requires_grad=True)
    found = quantizer(latents)
    table = torch.cdist(latents.detach().flatten(2).transpose(1, 2), quantizer.embedding.weight)
    assert torch.equal(found.indices, table.argmin(2))
    assert torch.allclose(found.codes, quantizer.looked_up(found.indices, latents.shape[2:]), atol=1e-6)
    assert torch.equal(found.codes[1, :, 2, 3], found.codes[1].flatten(1)[:, 2 * 5 + 3])
    push = torch.randn_like(latents)
    (gradient,) = torch.autograd.grad(found.codes, latents, push, retain_graph=True)
    assert torch.equal(gradient, push)
    assert not torch.autograd.grad(found.codes.sum(), quantizer.embedding.weight, allow_unused=True)[0]


def test_a_quarter_of_the_codebook_loss_moves_the_codes() -> None:
    latents, codes = (torch.randn(1, 2, 3, 3, requires_grad=True) for _ in range(2))
    loss = codebook_loss(latents, codes)
    to_latents, to_codes = torch.autograd.grad(loss, (latents, codes))
    assert torch.allclose(to_codes, -to_latents / 4)
    assert torch.allclose(to_latents, 2 * (latents - codes) / latents.numel())


def test_perplexity_counts_codes_in_use() -> None:
    assert perplexity(torch.tensor([[0, 1], [2, 3]]), 9).item() == pytest.approx(4, rel=1e-5)
    assert perplexity(torch.tensor([[5, 5]]), 9).item() == pytest.approx(1, rel=1e-5)


def test_the_adaptive_weight_stays_between_0_and_1_and_keeps_the_graph() -> None:
    parameter = nn.Parameter(torch.tensor([3.0, 4.0]))
    square = parameter.square().sum() / 2  # gradient of length 5
    for factor, wanted in ((0.0, 1.0), (0.5, 1.0), (10.0, 5 / (50 + 1e-4))):
        found = adaptive_weight(square, square * factor, parameter)
        assert found.item() == pytest.approx(wanted) and not found.requires_grad
    square.backward()
    assert parameter.grad.tolist() == [3.0, 4.0]


def test_positions_reach_queries_and_keys_and_not_values() -> None:
    layer = TransformerLayer(8, 2).eval()
    tokens, positions = torch.randn(5, 1, 8), torch.randn(5, 1, 8)
    same = tokens[:1].expand(5, 1, 8)  # equal values: whatever is attended to, the result is the same
    assert torch.allclose(layer(same, positions), layer(same, torch.zeros_like(positions)), atol=1e-6)
    assert not torch.allclose(layer(tokens, positions), layer(tokens, torch.zeros_like(positions)), atol=1e-3)


def test_a_connection_is_linear_in_its_weight() -> None:
    block = FeatureTransform(32)
    encoder, generator = torch.randn(2, 1, 32, 5, 6)
    once, twice = (block(encoder, generator, weight) - generator for weight in (0.6, 1.2))
    assert torch.allclose(2 * once, twice, atol=1e-5)
    assert torch.equal(block(encoder, generator, 0.0), generator)


def test_fidelity_0_asks_no_connection() -> None:
    network = CodeFormer(TINY)
    called = []
    for block in network.fuse_convs_dict.values():
        block.register_forward_hook(lambda *_: called.append(1))
    with torch.no_grad():
        prediction = network.predict(torch.rand(1, 3, 48, 48))
        network.generate(prediction, 0.0, adain=False)
        assert not called
        network.generate(prediction, 0.1, adain=False)
    assert len(called) == 3


@pytest.mark.parametrize("adain", [False, True])
def test_no_picture_teaches_encoder_or_transformer(adain: bool) -> None:
    network = CodeFormer(TINY)
    network.generate(network.predict(torch.rand(1, 3, 48, 48)), 1.0, adain).sum().backward()
    learns = {name.split(".")[0] for name, value in network.named_parameters() if value.grad is not None}
    assert learns == {"fuse_convs_dict"}


def test_batch_norm_is_torch_s_and_keeps_fp32_statistics_for_16_bit_weights() -> None:
    own, other = BatchNorm(5), nn.BatchNorm2d(5)
    for module in (own, other):
        nn.init.uniform_(module.weight, generator=torch.Generator().manual_seed(1))
    features = torch.randn(3, 5, 4, 4)
    assert torch.equal(own(features), other(features))
    assert all(torch.equal(one, two) for one, two in zip(own.buffers(), other.buffers(), strict=True))
    assert torch.equal(own.eval()(features), other.eval()(features))
    own.weight.data, own.bias.data = own.weight.bfloat16(), own.bias.bfloat16()
    assert own.train()(features.bfloat16()).dtype == torch.bfloat16
    assert own.running_mean.dtype == torch.float32 and int(own.num_batches_tracked) == 2


def test_the_perceptual_loss_normalises_twice() -> None:
    seen = []

    def distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        seen.extend((one, other))
        return (one - other).abs().mean((1, 2, 3))

    white, black = torch.ones(1, 3, 2, 2), -torch.ones(1, 3, 2, 2)
    perceptual_loss(distance, white, black)
    assert torch.allclose(seen[0][0, :, 0, 0], torch.tensor([2.2489, 2.4286, 2.6400]), atol=1e-4)
    assert torch.allclose(seen[1][0, :, 0, 0], torch.tensor([-2.1179, -2.0357, -1.8044]), atol=1e-4)


def test_lpips_is_0_for_equal_pictures_and_has_finite_gradients_there() -> None:
    network = Lpips()
    for linear in network.linear:
        nn.init.uniform_(linear.weight, 0, 1)
    pictures = torch.rand(2, 3, 32, 32).requires_grad_()
    found = network(pictures, torch.zeros(2, 3, 32, 32))
    assert found.shape == (2,) and (found > 0).all()
    assert network(pictures, pictures).abs().max() < 1e-6
    blank = nn.Parameter(torch.zeros(1, 3, 32, 32))
    with torch.no_grad():  # a layer that is silent everywhere
        network.vgg.features[0].weight.zero_()
        network.vgg.features[0].bias.fill_(-1)
        network.vgg.features[2].bias.fill_(-1)
    network(blank, pictures).sum().backward()
    assert torch.isfinite(blank.grad).all()


def test_lpips_reads_both_published_layouts(tmp_path: Path) -> None:
    network = Lpips()
    torch.save(network.vgg.state_dict() | {"classifier.0.bias": torch.zeros(9)}, tmp_path / "vgg16.pth")
    state = {f"lin{number}.model.1.weight": one.weight.data for number, one in enumerate(network.linear)}
    torch.save(state, tmp_path / "lpips.pth")
    loaded = load_lpips(str(tmp_path / "vgg16.pth"), str(tmp_path / "lpips.pth"))
    one, other = torch.rand(2, 1, 3, 32, 32)
    assert torch.equal(loaded(one, other), network(one, other))
    assert not any(value.requires_grad for value in loaded.parameters())
    torch.save(Vgg(19, ("conv5_4",)).state_dict(), tmp_path / "vgg19.pth")
    with pytest.raises(UserError, match=r"--vgg-weights .*vgg19\.pth does not fit the model"):
        load_lpips(str(tmp_path / "vgg19.pth"), str(tmp_path / "lpips.pth"))
    del state["lin2.model.1.weight"]
    torch.save(state, tmp_path / "lpips.pth")
    with pytest.raises(
        UserError, match=r"--lpips-weights .* does not fit the model: 1 missing: lin2\.model\.1\.weight"
    ):
        load_lpips(str(tmp_path / "vgg16.pth"), str(tmp_path / "lpips.pth"))


def test_lpips_of_levels_is_that_of_pictures_and_refuses_what_is_too_small(tmp_path: Path) -> None:
    network = Lpips()
    torch.save(network.vgg.state_dict(), tmp_path / "vgg16.pth")
    state = {f"lin{number}.model.1.weight": one.weight.data for number, one in enumerate(network.linear)}
    torch.save(state, tmp_path / "lpips.pth")
    files = [str(tmp_path / name) for name in ("vgg16.pth", "lpips.pth")]
    measure = lpips_of_levels(*files, ("one", "other"))
    levels = torch.randint(0, 256, (2, 2, 3, 17, 40), dtype=torch.uint8)
    found = measure(*levels)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(network(*(levels / 127.5 - 1)).tolist(), rel=1e-5)
    assert measure(levels[0], levels[0]).tolist() == [0, 0]
    with pytest.raises(UserError, match="at least 16 x 16 pixels, and one of the set has 40 x 15"):
        measure(levels[0, ..., :15, :], levels[1, ..., :15, :])
    with pytest.raises(UserError, match=r"--other .*vgg16\.pth does not fit"):
        lpips_of_levels(files[0], files[0], ("one", "other"))


def test_vgg_s_layers_are_torchvision_s(tmp_path: Path) -> None:
    import torchvision

    with torch.random.fork_rng():
        whole = torchvision.models.vgg16(weights=None)
    network = Vgg(16, ("relu1_2", "conv3_3", "relu5_3"))
    torch.save(whole.state_dict(), tmp_path / "vgg.pth")
    load_vgg(network, str(tmp_path / "vgg.pth"), "vgg-weights")
    pictures = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        wanted = [whole.features[: number + 1](pictures) for number in (3, 14, 29)]
        assert all(map(torch.equal, network(pictures), wanted))


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"channels": 48}, "--channels is 48; it must be a multiple of 32"),
        ({"multipliers": ()}, "--multipliers is empty"),
        ({"multipliers": (1, 0)}, "--multipliers is 0"),
        ({"size": 500}, r"--size is 500; it must be a multiple of 32, by which 6 --multipliers"),
        ({"size": 32}, "--size is 32; it must be at least 48"),
        ({"connections": (32, 48)}, r"--connections 48: faces of --size 512 have features of the sides 512, 256, 128"),
        ({"connections": ()}, "--connections is empty"),
        ({"transformer_heads": 7}, "--transformer-heads 7 does not divide --transformer-width 512"),
        ({"exaggerated_until": 10}, "--faithful-until 40000, --exaggerated-until 10 and .* must not fall"),
        ({"fidelity": -0.1}, "--fidelity is -0.1"),
        ({"perceptual_weight": -1.0}, "--perceptual-weight is -1.0"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_option(setting: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        CodeformerConfig(**setting)


def test_positions_follow_the_size() -> None:
    with torch.device("meta"):
        network = CodeFormer(replace(CodeformerConfig(), size=256, connections=(32, 64)))
    assert network.position_emb.shape == (64, 512)
    assert network.levels == {"32": 3, "64": 2}
