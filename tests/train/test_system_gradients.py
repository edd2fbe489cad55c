"""A system's gradients and weights do not depend on the number of ranks or the ZeRO stage.

Reduced gradients before the optimizer, tensor by tensor, and weights after three plain SGD steps are those of plain
torch, which goes through the micro-batches of the global batch one after the other.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gradient_subjects import SUBJECTS, K, Subject
from processes import run_group

from lumiray.config import EngineConfig, OptimizerConfig, RunConfig
from lumiray.system import Batch, Player, Scope, System, Term
from lumiray.train.step import MicroBatch, StepPlace, accumulate, seed_forward

ZERO = (0, 1, 2, 3)


def resolved(system: System, subject: Subject, zero: int = 0) -> tuple[Player, RunConfig]:
    from lumiray.train.recipe import resolved_player

    engine = EngineConfig()
    if zero == 3:  # small parameters are divided, too, as large ones are
        settings = Path(tempfile.mkdtemp()) / "zero3.json"
        settings.write_text(json.dumps({"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}))
        engine = EngineConfig(deepspeed=str(settings))
    stage = None if zero == 3 else zero
    sgd = OptimizerConfig("sgd", weight_decay=0.0)
    run = RunConfig(zero=stage, lr=subject.lr, optimizer=sgd, engine=engine)  # type: ignore[arg-type]
    return resolved_player(system.stages()[subject.stage].players[0], run), run


def trained(engine: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, value) for name, value in engine.module.named_parameters() if value.requires_grad)


def train(rank: int, world: int, name: str) -> dict[str, Any]:
    """Three steps under every stage of ZeRO on this rank's micro-batches: first gradients, and the last weights."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad

    from lumiray.train.engine import make_engine, set_learning_rate

    subject, results = SUBJECTS[name], {}
    own = range(rank * K // world, (rank + 1) * K // world)
    for zero in ZERO:
        system = subject.built()
        player, run = resolved(system, subject, zero)
        engine = make_engine(system, player, run, len(own), torch.device("cpu"))
        gradients: dict[str, list[float] | None] = {}
        for step, micros in enumerate(subject.batches()):
            set_learning_rate(engine, subject.lr)
            mine = [MicroBatch(micros[number], number) for number in own]
            assert accumulate(engine, mine, StepPlace(0, step, K, world), None) is not None
            if step == 0:
                for name, value in trained(engine):
                    found = safe_get_full_grad(value) if zero else value.grad
                    gradients[name] = None if found is None else found.double().flatten().tolist()
            engine.step()
        weights = {
            name: (safe_get_full_fp32_param(value) if zero else value).detach().double().flatten().tolist()
            for name, value in trained(engine)
        }
        results[str(zero)] = {"gradients": gradients, "weights": weights}
        engine.destroy()
    return results


def share_of_loss(term: Term, total: float) -> torch.Tensor:
    """A term's part of the loss of the global batch, for one of its K micro-batches."""
    if term.scope is Scope.GLOBAL:
        return term.weight * term.sum / max(total, term.least * K)
    return term.weight * term.sum / term.count / K


def totals_of(system: System, slug: str, micros: list[Batch]) -> dict[str, float]:
    counts = [system.counts(slug, one) for one in micros]
    return {name: sum(float(one[name]) for one in counts) for name in counts[0]}


@pytest.fixture(scope="module", params=list(SUBJECTS))
def subject(request: pytest.FixtureRequest) -> Subject:
    return SUBJECTS[request.param]


@pytest.fixture(scope="module")
def plain(subject: Subject) -> dict[str, Any]:
    """The same in plain torch on one process."""
    system, slug = subject.built(), subject.player
    network = system.networks[slug]
    player, _ = resolved(system, subject)
    named = {f"{slug}.{name}": value for name, value in network.named_parameters() if value.requires_grad}
    groups = [{"params": [one], "lr": subject.lr * player.lr_factors.get(name, 1.0)} for name, one in named.items()]
    optimizer = torch.optim.SGD(groups, lr=subject.lr)
    first = {name: value.detach().clone() for name, value in named.items()}
    gradients: dict[str, Any] = {}
    for step, micros in enumerate(subject.batches()):
        optimizer.zero_grad()
        totals = totals_of(system, slug, micros)
        for number, batch in enumerate(micros):
            seed_forward(StepPlace(0, step, K, 1), number)
            terms = system.losses(slug, batch, step)
            sum(share_of_loss(one, totals.get(name, 0.0)) for name, one in terms.items()).backward()
        if step == 0:
            gradients = {
                name: torch.zeros_like(one) if one.grad is None else one.grad.clone() for name, one in named.items()
            }
        optimizer.step()
    return {"gradients": gradients, "weights": {name: one.detach() for name, one in named.items()}, "first": first}


@pytest.fixture(scope="module", params=[1, 2])
def group(request: pytest.FixtureRequest, subject: Subject) -> dict[str, Any]:
    if request.param not in subject.ranks:
        pytest.skip("two ranks tell as much for this system")
    return run_group(train, request.param, subject.name)


@pytest.mark.parametrize("zero", ZERO)
def test_reduced_gradients_are_those_of_plain_torch_tensor_by_tensor(
    group: dict[str, Any], plain: dict[str, Any], zero: int
) -> None:
    found = group[str(zero)]["gradients"]
    assert found.keys() == plain["gradients"].keys()
    for name, expected in plain["gradients"].items():
        values = torch.tensor(found[name] or [0.0] * expected.numel(), dtype=torch.float64)
        assert torch.allclose(values, expected.flatten().double(), rtol=1e-4, atol=2e-6), name


@pytest.mark.parametrize("zero", ZERO)
def test_three_steps_lead_to_the_weights_of_plain_torch(
    group: dict[str, Any], plain: dict[str, Any], zero: int
) -> None:
    found = group[str(zero)]["weights"]
    moved = 0.0
    for name, expected in plain["weights"].items():
        values = torch.tensor(found[name], dtype=torch.float64)
        assert torch.allclose(values, expected.flatten().double(), rtol=0, atol=5e-6), name
        moved = max(moved, float((expected - plain["first"][name]).abs().max()))
    assert moved > 1e-3  # so that the bound above means something
