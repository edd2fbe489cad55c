"""A restoration system's gradients and weights do not depend on the number of ranks or the ZeRO stage.

Reduced gradients before the optimizer, tensor by tensor, and weights after three plain SGD steps are those of plain
torch, which takes the mean over the micro-batches: the losses are means within a micro-batch (SSIM, squares).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from processes import run_group

from lumiray.system import System

K, MICRO, SIDE, STEPS = 4, 2, 16, 3
STAGES = (0, 1, 2, 3)
SETTINGS = {"channels": (4, 4, 8, 8), "heads": (1, 2, 2, 4), "crop_size": SIDE, "perceptual_weight": 0.0}
LR = 0.02


def built() -> System:
    """The same weights at every call."""
    from lumiray.registry import system

    torch.manual_seed(0)
    found = system("cidnet", **SETTINGS)
    found.build(found.stages()[0])
    return found


def batches() -> list[dict[str, torch.Tensor]]:
    """Soft bright pictures and their dark halves, uint8, one dictionary for each step."""
    draw = np.random.default_rng(1)
    coarse = draw.integers(40, 216, (STEPS, K * MICRO, 3, SIDE // 4, SIDE // 4))
    bright = coarse.repeat(4, -1).repeat(4, -2) + draw.integers(-9, 10, (STEPS, K * MICRO, 3, SIDE, SIDE))
    return [{"lq": torch.from_numpy(one // 4).byte(), "gt": torch.from_numpy(one).byte()} for one in bright]


def cut(batch: dict[str, torch.Tensor], number: int) -> dict[str, torch.Tensor]:
    return {name: value[number * MICRO : (number + 1) * MICRO] for name, value in batch.items()}


def train(rank: int, world: int) -> dict[str, Any]:
    """Three steps of every stage on this rank's micro-batches: the first step's gradients, and the last weights."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad

    from lumiray.config import OptimizerConfig, RunConfig
    from lumiray.train.engine import make_engine
    from lumiray.train.recipe import resolved_player
    from lumiray.train.step import MicroBatch, StepPlace, accumulate

    results = {}
    own = range(rank * K // world, (rank + 1) * K // world)
    for zero in STAGES:
        system = built()
        run = RunConfig(zero=zero, lr=LR, optimizer=OptimizerConfig("sgd"))
        player = resolved_player(system.stages()[0].players[0], run)
        engine = make_engine(system, player, run, K * MICRO // world, torch.device("cpu"))
        gradients: dict[str, list[float] | None] = {}
        for step, batch in enumerate(batches()):
            micros = [MicroBatch(cut(batch, number), number) for number in own]
            assert accumulate(engine, micros, StepPlace(0, step, K, world), None) is not None
            if step == 0:
                for name, value in engine.module.named_parameters():
                    found = safe_get_full_grad(value) if zero else value.grad
                    gradients[name] = None if found is None else found.double().flatten().tolist()
            engine.step()
        weights = {
            name: (safe_get_full_fp32_param(value) if zero else value).detach().double().flatten().tolist()
            for name, value in engine.module.named_parameters()
        }
        results[str(zero)] = {"gradients": gradients, "weights": weights}
        engine.destroy()
    return results


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    """The same in plain torch on one process."""
    system = built()
    network = system.networks["cidnet"]
    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    gradients: dict[str, Any] = {}
    for step, batch in enumerate(batches()):
        optimizer.zero_grad()
        for number in range(K):
            terms = system.losses("cidnet", cut(batch, number), 0).values()
            (sum(one.weight * one.sum / one.count for one in terms) / K).backward()
        if step == 0:
            gradients = {
                f"cidnet.{name}": torch.zeros_like(value) if value.grad is None else value.grad.clone()
                for name, value in network.named_parameters()
            }
        optimizer.step()
    weights = {f"cidnet.{name}": value.detach() for name, value in network.named_parameters()}
    return {"gradients": gradients, "weights": weights, "first": built().networks["cidnet"].state_dict()}


@pytest.fixture(scope="module", params=[1, 2])
def group(request: pytest.FixtureRequest) -> dict[str, Any]:
    return run_group(train, request.param)


@pytest.mark.parametrize("zero", STAGES)
def test_reduced_gradients_are_those_of_plain_torch_tensor_by_tensor(
    group: dict[str, Any], plain: dict[str, Any], zero: int
) -> None:
    found = group[str(zero)]["gradients"]
    assert found.keys() == plain["gradients"].keys()
    for name, expected in plain["gradients"].items():
        values = torch.tensor(found[name] or [0.0] * expected.numel(), dtype=torch.float64)
        assert torch.allclose(values, expected.flatten().double(), rtol=1e-4, atol=2e-6), name


@pytest.mark.parametrize("zero", STAGES)
def test_three_steps_lead_to_the_weights_of_plain_torch(
    group: dict[str, Any], plain: dict[str, Any], zero: int
) -> None:
    found = group[str(zero)]["weights"]
    moved = 0.0
    for name, expected in plain["weights"].items():
        values = torch.tensor(found[name], dtype=torch.float64)
        assert torch.allclose(values, expected.flatten().double(), rtol=0, atol=5e-6), name
        first = plain["first"][name.removeprefix("cidnet.")]
        moved = max(moved, float((expected - first).abs().max()))
    assert moved > 1e-3  # so that the bound above means something
