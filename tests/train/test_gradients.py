"""The same gradients and weights whatever the number of ranks, ZeRO stage and micro-batches per rank.

Reduced gradient norms before the optimizer and weights after three plain SGD steps are compared: Adam would
hide a wrong constant factor.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import toy
from processes import run_group

K, MICRO = 4, 6
STAGES = (0, 1, 2, 3)


def batches(num_steps: int) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    rows = K * MICRO
    return [
        {
            "left": torch.randn(rows, 8, generator=draw),
            "right": torch.randn(rows, 5, generator=draw),
            "id": torch.arange(rows),
        }
        for _ in range(num_steps)
    ]


def train(rank: int, world: int, kinds: list[str], micro: int) -> dict[str, Any]:
    """Three SGD steps of every system and stage on this rank's rows: losses, norms, weights."""
    from deepspeed.utils import safe_get_full_fp32_param

    from lumiray.config import RunConfig
    from lumiray.train.engine import gradient_norm, make_engine
    from lumiray.train.step import MicroBatch, StepPlace, accumulate, reduce_sums

    results = {}
    count = K * MICRO // micro
    for kind in kinds:
        for zero in STAGES:
            torch.manual_seed(0)
            system = getattr(toy, kind)(toy.ToyConfig(dropout=0.2 if micro == MICRO and kind != "ToyCounted" else 0.0))
            stage = system.stages()[0]
            system.build(stage)
            rows = K * MICRO // world
            engine = make_engine(system, stage.players[0], RunConfig(zero=zero), rows, torch.device("cpu"))
            losses, norms = [], []
            for step, batch in enumerate(batches(3)):
                own = range(rank * count // world, (rank + 1) * count // world)
                micros = [MicroBatch({n: v[i * micro : (i + 1) * micro] for n, v in batch.items()}, i) for i in own]
                sums = accumulate(engine, micros, StepPlace(0, step, count, world), None)
                assert sums is not None
                losses.append(reduce_sums(sums))
                norm = gradient_norm(engine)
                engine.step()
                norms.append(float(engine.get_global_grad_norm()) if norm is None else norm)
            weights = {
                name: (safe_get_full_fp32_param(value) if zero else value).double().flatten().tolist()
                for name, value in engine.module.named_parameters()
            }
            results[f"{kind}/{zero}"] = {"losses": losses, "norms": norms, "weights": weights}
            engine.destroy()
    return results


def reference() -> dict[str, Any]:
    """ToyContrast without dropout on the whole batch at once, in plain torch."""
    torch.manual_seed(0)
    system = toy.ToyContrast(toy.ToyConfig(dropout=0.0))
    system.build(system.stages()[0])
    towers = system.networks["towers"]
    optimizer = torch.optim.SGD(towers.parameters(), lr=system.config.lr)
    norms = []
    for batch in batches(3):
        optimizer.zero_grad()
        left, right = towers(batch["left"], batch["right"])
        logits = towers.logit_scale.exp() * left @ right.T
        labels = torch.arange(len(left))
        cross_entropy = torch.nn.functional.cross_entropy
        loss = (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
        loss.backward()
        norms.append(float(torch.nn.utils.get_total_norm([value.grad for value in towers.parameters()])))
        optimizer.step()
    return {
        "norms": norms,
        "weights": {f"towers.{n}": v.double().flatten().tolist() for n, v in towers.named_parameters()},
    }


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    return run_group(train, 1, ["ToyContrast", "ToyRegression", "ToyCounted"], MICRO)


@pytest.fixture(scope="module")
def two() -> dict[str, Any]:
    return run_group(train, 2, ["ToyContrast", "ToyRegression", "ToyCounted"], MICRO)


@pytest.fixture(scope="module")
def two_uncut() -> dict[str, Any]:
    return run_group(train, 2, ["ToyContrast"], K * MICRO // 2)


def assert_same(left: dict[str, Any], right: dict[str, Any], tolerance: float = 2e-6) -> None:
    assert left["norms"] == pytest.approx(right["norms"], rel=tolerance * 10)
    assert left["weights"].keys() == right["weights"].keys()
    for name, values in left["weights"].items():
        assert values == pytest.approx(right["weights"][name], rel=0, abs=tolerance), name


@pytest.mark.parametrize("kind", ["ToyContrast", "ToyRegression"])
@pytest.mark.parametrize("zero", STAGES)
def test_ranks_and_stages_agree(one: dict[str, Any], two: dict[str, Any], kind: str, zero: int) -> None:
    base = one[f"{kind}/0"]
    assert_same(one[f"{kind}/{zero}"], base)
    assert_same(two[f"{kind}/{zero}"], base)
    for ours, theirs in zip(two[f"{kind}/{zero}"]["losses"], base["losses"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert all(math.isfinite(norm) and norm > 0 for norm in base["norms"])


@pytest.mark.parametrize("zero", STAGES)
def test_one_pass_is_the_gradient_of_the_whole_batch(two_uncut: dict[str, Any], zero: int) -> None:
    assert_same(two_uncut[f"ToyContrast/{zero}"], reference())


def test_two_passes_are_the_gradient_of_the_whole_batch() -> None:
    cut = run_group(train, 1, ["ToyContrast"], 3)  # eight micro-batches, no dropout
    for zero in STAGES:
        assert_same(cut[f"ToyContrast/{zero}"], reference())


def test_terms_of_global_scope_are_divided_by_the_count_of_the_whole_batch(
    one: dict[str, Any], two: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    system = toy.ToyCounted(toy.ToyConfig())
    net = system.build(system.stages()[0])["net"].eval()
    optimizer = torch.optim.SGD(net.parameters(), lr=system.config.lr)
    for batch in batches(3):
        optimizer.zero_grad()
        error = (net(batch["left"]) - batch["right"]).square().mean(1)
        chosen = batch["left"][:, 0] > 1.0
        assert len({int(part.sum()) for part in chosen.view(K, MICRO)}) > 1  # a mean of means would be another number
        (error[chosen].mean() + 0.5 * error.sum() / (2.0 * K)).backward()
        optimizer.step()
    for group in (one, two):
        for zero in STAGES:
            for name, value in net.named_parameters():
                found = group[f"ToyCounted/{zero}"]["weights"][f"net.{name}"]
                assert found == pytest.approx(value.flatten().tolist(), abs=3e-6), (zero, name)
