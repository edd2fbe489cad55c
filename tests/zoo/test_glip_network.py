"""GLIP's network beyond its published numbers: odd sizes, oddities of the code, frozen parts, files of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.zoo.glip_squares import built, tiny
from torch import Tensor

from lumiray.errors import UserError
from lumizoo.glip.config import GlipConfig
from lumizoo.glip.dynamic_head import DynamicConv, reread
from lumizoo.glip.fusion import BiAttention, flat, unflat
from lumizoo.glip.network import MEAN, STD, Glip, normalised
from lumizoo.glip.swin import Block, regions_apart


def network(config: GlipConfig) -> Glip:
    return built(config).networks["glip"]


def given(count: int = 2, height: int = 64, width: int = 96, tokens: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(3)
    mask = torch.arange(tokens) < torch.tensor([tokens, 3])[:count, None]
    return torch.randn(count, 3, height, width), torch.randint(4, 20, (count, tokens)), mask


def largest(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().abs().max())


def test_levels_and_predictions_have_the_sizes_of_their_strides(tmp_path: Path) -> None:
    found = network(tiny(tmp_path)).eval()(*given())
    assert found.sizes == ((8, 12), (4, 6), (2, 3), (1, 2), (1, 1))
    number = 96 + 24 + 6 + 2 + 1
    assert (found.boxes.shape, found.centreness.shape) == ((2, number, 4), (2, number))
    assert found.alignment.shape == (2, number, 6)


def test_padding_of_a_text_does_not_change_what_is_said_of_its_words(tmp_path: Path) -> None:
    for fusion in (True, False):
        net = network(tiny(tmp_path, fusion=fusion)).eval()
        pictures, tokens, mask = given()
        other = tokens.clone()
        other[1, 3:] = 5
        once, again = net(pictures, tokens, mask), net(pictures, other, mask)
        whole, changed = once.alignment[1, :, :3], again.alignment[1, :, :3]
        assert largest(whole, changed) < 1e-5
        assert largest(once.boxes, again.boxes) < 1e-5


def test_a_picture_is_seen_alike_beside_another(tmp_path: Path) -> None:
    net = network(tiny(tmp_path)).eval()
    pictures, tokens, mask = given()
    both = net(pictures, tokens, mask)
    for number in range(2):
        one = slice(number, number + 1)
        alone = net(pictures[one], tokens[one], mask[one])
        assert largest(alone.alignment, both.alignment[one]) < 1e-4
        assert largest(alone.boxes, both.boxes[one]) < 1e-4


def test_the_text_is_heard_by_boxes_only_with_fusion(tmp_path: Path) -> None:
    pictures, tokens, mask = given()
    for fusion in (True, False):
        net = network(tiny(tmp_path, fusion=fusion)).eval()
        other = tokens.clone()
        other[0, 1] = 4 if int(tokens[0, 1]) != 4 else 5
        changed = largest(net(pictures, tokens, mask).boxes, net(pictures, other, mask).boxes)
        assert (changed > 0) == fusion


def test_blocks_are_computed_again_with_the_same_gradients(tmp_path: Path) -> None:
    gradients = []
    for again in (False, True):
        net = network(tiny(tmp_path, grad_checkpointing=again, drop_path=0.3)).train()
        torch.manual_seed(5)  # the same dropout in both
        found = net(*given())
        (found.alignment.square().mean() + found.boxes.square().mean() + found.centreness.square().mean()).backward()
        gradients.append({name: value.grad for name, value in net.named_parameters() if value.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        assert torch.allclose(value, gradients[1][name], rtol=1e-3, atol=1e-6), name


def test_every_parameter_learns_but_the_classes_that_nothing_reads(tmp_path: Path) -> None:
    net = network(tiny(tmp_path)).eval()
    found = net(*given())
    (found.alignment.square().sum() + found.boxes.square().sum() + found.centreness.square().sum()).backward()
    idle = {name for name, value in net.named_parameters() if value.grad is None}
    assert idle == {"rpn.head.cls_logits.weight", "rpn.head.cls_logits.bias"}
    assert not any(net.get_parameter(name).requires_grad for name in idle)


def test_first_stages_are_frozen_with_the_patches(tmp_path: Path) -> None:
    net = network(tiny(tmp_path, frozen_stages=1))
    frozen = {name for name, value in net.named_parameters() if not value.requires_grad and "cls_logits" not in name}
    inside = {name for name, _ in net.named_parameters() if name.startswith("backbone.body.")}
    first = ("backbone.body.patch_embed.", "backbone.body.layers.0.")
    assert frozen == {name for name in inside if name.startswith(first)}


def test_shifted_windows_do_not_let_the_border_wrap_around() -> None:
    torch.manual_seed(0)
    block = Block(8, 2, 4, 2, 0.0).eval()
    hidden = torch.randn(1, 8, 8, 8)
    changed = hidden.clone()
    changed[:, 0, 0] += 1
    moved = (block(hidden) != block(changed)).any(-1)[0]
    assert moved[:2, :2].all() and int(moved.sum()) == 4  # the corner's window is 2 x 2, cut off by the border
    assert regions_apart((4, 4), 4, 2, torch.device("cpu")).shape == (1, 16, 16)


def test_sizes_that_no_window_divides_are_padded_behind_the_norm() -> None:
    torch.manual_seed(0)
    block = Block(8, 2, 4, 0, 0.0).eval()
    hidden = torch.randn(1, 5, 6, 8)
    found = block(hidden)
    whole = torch.nn.functional.pad(block.norm1(hidden), (0, 0, 0, 2, 0, 3))
    window = whole[:, 4:, 4:].reshape(1, 16, 8)
    attended = block.attn(window, None).view(1, 4, 4, 8)[:, :1, :2]
    corner = hidden[:, 4:, 4:] + attended
    assert largest(found[:, 4:, 4:], corner + block.mlp(block.norm2(corner))) < 1e-6


def test_offsets_of_the_upper_branch_are_read_from_the_start_of_each_picture_s_memory() -> None:
    values = torch.arange(2 * 18 * 6 * 4.0).view(2, 18, 6, 4)
    found = reread(values, torch.Size((3, 2)))
    assert found.shape == (2, 18, 3, 2)
    assert found.flatten(1).tolist() == [list(map(float, range(108))), [432.0 + place for place in range(108)]]
    assert torch.equal(reread(values, values.shape[2:]), values)


def test_a_dynamic_block_reads_offsets_so_and_not_from_the_upper_level() -> None:
    torch.manual_seed(0)
    block = DynamicConv(16, 4).eval()
    fine, coarse = torch.randn(1, 16, 8, 8), torch.randn(1, 16, 4, 4)
    torch.nn.init.normal_(block.offset.weight, std=0.3)
    seen: list[Tensor] = []
    block.DyConv[0].register_forward_hook(lambda module, passed, output: seen.append(passed[1]))
    block(fine, coarse)
    (offset,) = seen  # the finest level alone has an upper one
    assert torch.equal(offset, reread(block.offset(fine)[:, :18], torch.Size((4, 4))))


def test_levels_are_laid_out_row_by_row_and_back() -> None:
    levels = [torch.randn(2, 3, 4, 5), torch.randn(2, 3, 2, 3)]
    rows = flat(levels)
    assert torch.equal(rows[1, 4 * 5 + 3 + 1], levels[1][1, :, 1, 1])
    assert all(torch.equal(*pair) for pair in zip(unflat(rows, [one.shape[2:] for one in levels]), levels))


def test_scores_beyond_the_clamp_stay_finite_with_gradients() -> None:
    torch.manual_seed(0)
    attention = BiAttention(8, 8, 16, 2)
    visual = (1e6 * torch.randn(1, 5, 8)).requires_grad_()
    results = attention(visual, 1e6 * torch.randn(1, 4, 8), torch.tensor([[True, True, False, False]]))
    sum(one.sum() for one in results).backward()
    assert all(torch.isfinite(one).all() for one in (*results, visual.grad))


def test_half_precision_keeps_clamps_and_predictions_in_full(tmp_path: Path) -> None:
    net = network(tiny(tmp_path)).eval()
    pictures, tokens, mask = given()
    full = net(pictures, tokens, mask)
    found = net.to(torch.bfloat16)(pictures.to(torch.bfloat16), tokens, mask)
    for name in ("boxes", "centreness", "alignment"):
        value = getattr(found, name)
        assert value.dtype == torch.float32 and largest(value, getattr(full, name)) < 0.3


def test_pictures_become_normalised_bgr_with_zeros_outside() -> None:
    pictures = torch.full((1, 3, 4, 4), 77, dtype=torch.uint8)
    pictures[0, :, :2, :3] = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1)
    found = normalised(pictures, torch.tensor([[2, 3]]), torch.float32)
    for channel, level in enumerate((30, 20, 10)):
        assert found[0, channel, 1, 2] == pytest.approx((level - MEAN[channel]) / STD[channel])
    assert not found[0, :, 2:].any() and not found[0, :, :, 3:].any()


def test_a_checkpoint_goes_out_and_in_under_published_names(tmp_path: Path) -> None:
    system = built(tiny(tmp_path))
    state = {f"glip.{name}": value for name, value in system.networks["glip"].state_dict().items()}
    published = system.published_state(state)
    assert published["rpn.anchor_generator.cell_anchors.0"].tolist() == [[-28.0, -28.0, 35.0, 35.0]]
    names = {
        "backbone.body.layers.1.blocks.1.attn.relative_position_index",
        "backbone.fpn.top_blocks.p7.bias",
        "language_backbone.body.model.encoder.layer.0.attention.self.query.weight",
        "rpn.head.dyhead_tower.0.b_attn.gamma_v",
        "rpn.head.dyhead_tower.1.attention.output.LayerNorm.bias",
        "rpn.head.dyhead_tower.2.DyConv.2.bn.weight",
        "rpn.head.scales.4.scale",
    }
    assert names <= published.keys()
    wrapped: dict[str, Any] = {f"module.{name}": value for name, value in published.items()}
    wrapped["module.language_backbone.body.model.embeddings.position_ids"] = torch.arange(64)[None]
    torch.save({"model": wrapped, "iteration": 7, "optimizer": {"state": {}}}, tmp_path / "own.pth")
    torch.manual_seed(9)
    loaded = type(system)(tiny(tmp_path, weights=str(tmp_path / "own.pth")))
    networks = loaded.build(loaded.stages()[0])
    assert all(torch.equal(value, networks.state_dict()[name]) for name, value in state.items())


def test_weights_of_another_network_are_refused_with_names(tmp_path: Path) -> None:
    system = built(tiny(tmp_path))
    state = system.networks["glip"].state_dict()
    state["rpn.head.other"] = state.pop("rpn.head.bias0")
    torch.save({"model": state}, tmp_path / "other.pth")
    told = r"--weights .*other\.pth does not fit the model: 1 missing: rpn\.head\.bias0; 1 unexpected: rpn\.head\.other"
    with pytest.raises(UserError, match=told):
        built(tiny(tmp_path, weights=str(tmp_path / "other.pth")))
    with pytest.raises(UserError, match=r"--weights .*does not fit the model: \d+ missing"):
        built(tiny(tmp_path, fusion=False, blocks=2, weights=str(tmp_path / "other.pth")))


def test_towers_start_from_files_of_their_own(tmp_path: Path) -> None:
    net = built(tiny(tmp_path)).networks["glip"]
    swin = {name: value + 1 for name, value in net.backbone["body"].state_dict().items() if "norm1.w" not in name[:8]}
    swin = {name: value for name, value in swin.items() if not name.startswith("norm")}
    swin |= {"norm.weight": torch.ones(128), "head.weight": torch.ones(1000, 128)}
    swin["layers.1.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    bert = {f"bert.{name}": value + 1 for name, value in net.language_backbone.body["model"].state_dict().items()}
    bert = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): value for name, value in bert.items()}
    bert = {name.replace("LayerNorm.bias", "LayerNorm.beta"): value for name, value in bert.items()}
    bert |= {"bert.pooler.dense.bias": torch.ones(32), "cls.predictions.bias": torch.ones(22)}
    torch.save({"model": swin}, tmp_path / "swin.pth")
    torch.save(bert, tmp_path / "bert.bin")
    files = {"swin_weights": str(tmp_path / "swin.pth"), "bert_weights": str(tmp_path / "bert.bin")}
    found = built(tiny(tmp_path, **files)).networks["glip"]
    plain = "backbone.body.patch_embed.proj.weight", "language_backbone.body.model.embeddings.LayerNorm.weight"
    for name in plain:
        assert torch.equal(found.get_parameter(name), net.get_parameter(name) + 1)
    assert found.backbone["body"].norm1.weight.eq(1).all()
    del bert["bert.embeddings.word_embeddings.weight"]
    torch.save(bert, tmp_path / "bert.bin")
    with pytest.raises(UserError, match=r"--bert-weights .*1 missing: embeddings\.word_embeddings\.weight"):
        built(tiny(tmp_path, **files))


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"swin_heads": (3, 6, 12, 25)}, "--swin-heads 25 does not divide a width of 768"),
        ({"bert_heads": 7}, "--bert-heads 7 does not divide"),
        ({"fusion_heads": 0}, "--fusion-heads is 0"),
        ({"norm_groups": 7}, "--norm-groups 7 does not divide a width of 256"),
        ({"max_tokens": 513}, "--max-tokens is 513; it must be between 3 and 512"),
        ({"train_sides": (480, 5)}, "--train-sides is 5; it must be at least 32"),
        ({"train_sides": ()}, "--train-sides names no side"),
        ({"ema_decay": 1.0}, "--ema-decay is 1.0"),
        ({"frozen_stages": 5}, "--frozen-stages is 5"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_option(setting: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        GlipConfig(**setting)
