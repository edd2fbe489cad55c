"""Frozen parts, rates of their own and low-rank adapters, in engines of every stage against plain torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import duel
import pytest
import torch
from processes import run_group
from torch import nn

from lumiray.config import FinetuneConfig, RunConfig
from lumiray.errors import UserError
from lumiray.train.adapters import adapt, adaptable, merged
from lumiray.train.finetune import apply_finetuning
from lumiray.train.recipe import factor_of, rate_factors

STAGES = (0, 1, 2, 3)
ADAPTED = FinetuneConfig(adapter_rank=2, adapt=("maker.*",), lr_factor=("maker.middle.*=0.25",))


def convolution_and_linear() -> nn.Sequential:
    convolution = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, padding_mode="reflect")
    return nn.Sequential(convolution, nn.GELU(), nn.Flatten(2), nn.Linear(16, 5))


def test_adapters_change_nothing_until_they_are_trained_and_merge_to_the_same_outputs() -> None:
    torch.manual_seed(0)
    network = convolution_and_linear()
    pictures = torch.randn(2, 4, 8, 8)
    before, names = network(pictures), set(network.state_dict())
    for layer in (network[0], network[3]):
        adapt(layer, rank=2, alpha=6.0)
    assert torch.equal(network(pictures), before)
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    assert trained == {f"{layer}.adapter_{end}" for layer in (0, 3) for end in ("down", "up")}
    for layer in (network[0], network[3]):
        nn.init.normal_(layer.adapter_up)
    after = network(pictures)
    assert (after - before).abs().max() > 0.1
    state = merged(network.state_dict())
    assert set(state) == names
    plain = convolution_and_linear()
    plain.load_state_dict(state)
    assert torch.allclose(plain(pictures), after, atol=1e-5)


def test_layers_whose_weight_is_read_past_their_forward_get_no_adapters() -> None:
    attention = nn.MultiheadAttention(8, 2)
    assert not adaptable(attention.out_proj)  # attention reads its weight and never calls it
    assert adaptable(nn.Linear(2, 2))


def test_of_several_patterns_the_last_one_counts_for_adapters_too() -> None:
    factors = rate_factors(FinetuneConfig(lr_factor=("*=0.5", "net.first.*=0.1", "net.*.bias=0")))
    assert factor_of("net.last.weight", factors) == 0.5
    assert factor_of("net.first.weight", factors) == 0.1
    assert factor_of("net.first.bias", factors) == 0.0
    assert factor_of("net.first.adapter_up", factors) == 0.1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (FinetuneConfig(freeze=("maker.frist.*",)), r"--finetune.freeze 'maker.frist.\*' fits no name"),
        (FinetuneConfig(lr_factor=("other.*=0.1",)), r"--finetune.lr-factor 'other.\*' fits no name"),
        (FinetuneConfig(lr_factor=("maker.*",)), "is not PATTERN=FACTOR"),
        (FinetuneConfig(lr_factor=("maker.*=-1",)), "is not PATTERN=FACTOR"),
        (FinetuneConfig(adapter_rank=2, adapt=("maker.middle.weight",)), "--finetune.adapt"),
    ],
)
def test_a_pattern_that_fits_nothing_is_refused(settings: FinetuneConfig, words: str) -> None:
    system = duel.built()
    with pytest.raises(UserError, match=words):
        apply_finetuning(system, system.stages()[0], settings)


def steps_of(zero: int, settings: FinetuneConfig, rank: int, world: int, url: str) -> dict[str, Any]:
    """A run of the maker alone: its first and last weights, and what is exported."""
    from test_players import run_steps

    from lumiray.train.checkpoint import Checkpointer, export_model, latest
    from lumiray.train.fragments import full_fp32_state
    from lumiray.train.loop import Loop, Place, Surroundings
    from lumiray.train.marks import Marks
    from lumiray.train.players import make_players

    system, run = duel.built(adaptive=False), RunConfig(zero=zero, finetune=settings)
    stage = system.stages()[0]
    stage = replace(stage, players=tuple(replace(one, ema=None) for one in stage.players))
    torch.manual_seed(1)
    apply_finetuning(system, stage, settings)
    device = torch.device("cpu")
    players = make_players(system, stage, run, duel.K * duel.MICRO // world, device)
    around: Any = Surroundings(None, None, None, None, Marks(0.0), None, print)  # type: ignore[arg-type]
    loop = Loop(run, Place(rank, world, device, duel.MICRO, duel.K, duel.STEPS), stage, players, around)
    first = duel.plain(full_fp32_state(players["maker"].engine) or {})
    logged = run_steps(loop, 0, duel.STEPS, rank, world)
    writer = Checkpointer(url, rank, world)
    writer.save(duel.STEPS, {name: one.engine for name, one in players.items()}, {"step": duel.STEPS}, {})
    writer.wait()
    torch.distributed.barrier()
    last = duel.plain(full_fp32_state(players["maker"].engine) or {})
    manifest = latest(url)
    assert manifest is not None
    return {"first": first, "last": last, "exported": duel.plain(export_model(manifest)), "lr": logged[0]["lr"]}


def of_every_stage(rank: int, world: int, root: str) -> dict[str, Any]:
    frozen = FinetuneConfig(freeze=("maker.middle.*", "critic.*.bias"))
    return {
        "adapted": [steps_of(zero, ADAPTED, rank, world, f"{root}/a{world}{zero}") for zero in STAGES],
        "frozen": [steps_of(zero, frozen, rank, world, f"{root}/f{world}{zero}") for zero in STAGES],
    }


@pytest.fixture(scope="module", params=[1, 2])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_group(of_every_stage, request.param, str(tmp_path_factory.mktemp("finetune")))


def moved(case: dict[str, Any]) -> set[str]:
    return {name for name, values in case["last"].items() if values != case["first"][name]}


def test_only_adapters_move_and_the_export_has_them_added_in(found: dict[str, Any]) -> None:
    for case in found["adapted"]:
        assert moved(case) == {
            f"maker.{layer}.adapter_{end}" for layer in ("middle", "last") for end in ("down", "up")
        } | ({f"maker.first.adapter_{end}" for end in ("down", "up")})
        assert {name for name in case["exported"] if name.startswith("maker.")} == {
            f"maker.{name}" for name in duel.Maker().state_dict()
        }
        layer = {
            end: torch.tensor(case["last"][f"maker.middle.{end}"]) for end in ("weight", "adapter_down", "adapter_up")
        }
        whole = layer["weight"].view(7, 7) + layer["adapter_up"].view(7, 2) @ layer["adapter_down"].view(2, 7)
        assert case["exported"]["maker.middle.weight"] == pytest.approx(whole.flatten().tolist(), abs=1e-6)
        assert case["exported"]["maker.middle.weight"] != case["last"]["maker.middle.weight"]


def test_every_stage_trains_adapters_alike(found: dict[str, Any]) -> None:
    first, *others = found["adapted"]
    for case in others:
        for name, values in first["last"].items():
            assert case["last"][name] == pytest.approx(values, abs=3e-6), name


def test_what_is_frozen_stays_and_is_in_the_export(found: dict[str, Any]) -> None:
    for case in found["frozen"]:
        assert moved(case) == {"maker.last.weight"}
        assert case["exported"]["maker.middle.weight"] == pytest.approx(case["first"]["maker.middle.weight"])


def by_rate(rank: int, world: int) -> dict[str, Any]:
    """Weights after one step of plain SGD, with and without a factor."""
    import tempfile

    with tempfile.TemporaryDirectory() as root:
        usual = steps_of(0, FinetuneConfig(), rank, world, f"{root}/a")
        slowed = steps_of(1, FinetuneConfig(lr_factor=("maker.middle.*=0",)), rank, world, f"{root}/b")
    return {"usual": usual, "slowed": slowed}


def test_a_factor_of_a_rate_reaches_the_optimizer(tmp_path: Path) -> None:
    found = run_group(by_rate, 1)
    assert "maker.middle.weight" in moved(found["usual"])
    assert moved(found["slowed"]) == {"maker.last.weight"}
