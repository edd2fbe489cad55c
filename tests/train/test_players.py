"""Two players with an engine each, on 1 and 2 ranks and every ZeRO stage, are those of plain torch.

Adaptive weight, batch normalisation, a frozen layer, an average of the weights, turns and rates of their own; also
after a checkpoint that another number of ranks and another stage go on from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duel
import numpy as np
import pytest
import torch
from processes import run_group

STAGES = (0, 1, 2, 3)
MIDDLE = 2  # the step at which a checkpoint is written


def loop_of(zero: int, rank: int, world: int) -> Any:
    """A loop with fresh engines."""
    from lumiray.config import RunConfig
    from lumiray.train.loop import Loop, Place, Surroundings
    from lumiray.train.marks import Marks
    from lumiray.train.players import make_players

    system, run = duel.built(adaptive=zero < 3), RunConfig(zero=zero)
    stage = system.stages()[0]
    device = torch.device("cpu")
    players = make_players(system, stage, run, duel.K * duel.MICRO // world, device)
    around: Any = Surroundings(None, None, None, None, Marks(0.0), None, print)  # type: ignore[arg-type]
    return Loop(run, Place(rank, world, device, duel.MICRO, duel.K, duel.STEPS), stage, players, around)


def run_steps(loop: Any, first: int, last: int, rank: int, world: int) -> list[dict[str, float]]:
    """Steps [first, last) on this rank's rows; what would be logged after each."""
    from lumiray.data.feed import Delivery
    from lumiray.train.players import numbers

    rows = duel.K * duel.MICRO // world
    found = []
    for step in range(first, last):
        own = {name: value[rank * rows : (rank + 1) * rows] for name, value in duel.global_batch(step).items()}
        loop.one_step(step, Delivery("train", step, own))
        found.append(numbers(loop.players, loop._moved))
    return found


def state_of(loop: Any) -> dict[str, Any]:
    """Weights and buffers, the average, and whether the networks compute with it where they should."""
    from lumiray.train.average import averaged
    from lumiray.train.fragments import full_fp32_state

    engines = [one.engine for one in loop.players.values()]
    found: dict[str, Any] = {"weights": {}}
    for engine in engines:
        found["weights"] |= duel.plain(full_fp32_state(engine) or {})
    rows = duel.global_batch(99)["rows"]
    with torch.no_grad(), averaged(engines[0]):
        found["made"] = engines[0]("embed", {"rows": rows})["made"].double().flatten().tolist()
        found["average"] = duel.plain(full_fp32_state(engines[0]) or {})
    found["after"] = {}
    for engine in engines:
        found["after"] |= duel.plain(full_fp32_state(engine) or {})
    return found


def whole_runs(rank: int, world: int, root: str) -> dict[str, Any]:
    """A run of every stage, with a checkpoint in its middle."""
    from lumiray.train.checkpoint import Checkpointer

    found = {}
    for zero in STAGES:
        loop = loop_of(zero, rank, world)
        logged = run_steps(loop, 0, MIDDLE, rank, world)
        writer = Checkpointer(f"{root}/{world}-{zero}", rank, world)
        writer.save(MIDDLE, {name: one.engine for name, one in loop.players.items()}, {"step": MIDDLE}, {})
        writer.wait()
        logged += run_steps(loop, MIDDLE, duel.STEPS, rank, world)
        found[str(zero)] = state_of(loop) | {"logged": logged}
    torch.distributed.barrier()
    return found


def continued(rank: int, world: int, root: str) -> dict[str, Any]:
    """Every checkpoint of a group of the other size, continued in another stage where that is possible."""
    from lumiray.train.checkpoint import latest, restore

    found = {}
    for zero in STAGES:
        loop = loop_of({0: 1, 1: 2, 2: 0, 3: 3}[zero], rank, world)
        run_steps(loop, 7, 8, rank, world)  # other weights, averages and statistics, all to be overwritten
        manifest = latest(f"{root}/{3 - world}-{zero}")
        assert manifest is not None
        restore(manifest, {name: one.engine for name, one in loop.players.items()})
        run_steps(loop, MIDDLE, duel.STEPS, rank, world)
        found[str(zero)] = state_of(loop)
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("players")


@pytest.fixture(scope="module")
def runs(root: Path) -> dict[int, Any]:
    return {world: run_group(whole_runs, world, str(root)) for world in (1, 2)}


@pytest.fixture(scope="module")
def expected() -> dict[int, Any]:
    """Of every ZeRO stage: the third has no adaptive weight."""
    return {zero: duel.in_plain_torch(adaptive=zero < 3) for zero in STAGES}


def assert_same(found: dict[str, list[float]], wanted: dict[str, list[float]]) -> None:
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert np.allclose(found[name], values, rtol=0, atol=3e-6), name


@pytest.mark.parametrize("zero", STAGES)
@pytest.mark.parametrize("world", [1, 2])
def test_both_players_end_as_in_plain_torch(
    runs: dict[int, Any], expected: dict[int, Any], world: int, zero: int
) -> None:
    found = runs[world][str(zero)]
    assert_same(found["weights"], expected[zero]["weights"])
    assert found["weights"]["critic.1.num_batches_tracked"] == [duel.K * 7]  # 3 turns of one forward, 2 of two
    assert found["after"] == found["weights"]  # to look at the average leaves no trace


@pytest.mark.parametrize("zero", STAGES)
@pytest.mark.parametrize("world", [1, 2])
def test_the_average_is_that_of_whole_weights_and_is_what_evaluation_sees(
    runs: dict[int, Any], expected: dict[int, Any], world: int, zero: int
) -> None:
    found = runs[world][str(zero)]
    assert_same(found["average"], expected[zero]["average"])
    system = duel.built()
    maker = system.networks["maker"]
    maker.load_state_dict(
        {
            name: torch.tensor(expected[zero]["average"][f"maker.{name}"]).view(value.shape)
            for name, value in maker.state_dict().items()
        }
    )
    wanted = maker(duel.global_batch(99)["rows"]).flatten().tolist()
    assert np.allclose(found["made"], wanted, rtol=0, atol=3e-6)
    moved = max(
        abs(a - b) for a, b in zip(found["average"]["maker.last.weight"], found["weights"]["maker.last.weight"])
    )
    assert moved > 1e-3  # so that the bounds above mean something


@pytest.mark.parametrize("world", [1, 2])
def test_turns_and_terms_are_logged_each_under_its_player(
    runs: dict[int, Any], expected: dict[int, Any], world: int
) -> None:
    logged = runs[world]["1"]["logged"]
    assert "critic.loss" not in logged[0]
    assert [one["lr"] for one in logged] == [duel.LR, duel.LR, duel.LR / 2, duel.LR / 2]
    for ours, theirs in zip(logged, expected[1]["logged"], strict=True):
        for name in theirs.keys() & {"judged", "seen"}:
            assert ours[name] == pytest.approx(theirs[name], abs=1e-5)
        loss = theirs["l1"] + duel.FACTOR * theirs.get("judged", 0.0)  # a term of weight 0 is only shown
        assert ours["loss"] == pytest.approx(loss, abs=1e-5)
    assert logged[3]["critic.loss"] == pytest.approx(expected[1]["logged"][3]["hinge"], abs=1e-5)


@pytest.mark.parametrize("world", [1, 2])
def test_a_checkpoint_goes_on_with_other_ranks_and_another_stage(
    runs: dict[int, Any], expected: dict[int, Any], root: Path, world: int
) -> None:
    found = run_group(continued, world, str(root))
    for zero in STAGES:
        assert_same(found[str(zero)]["weights"], expected[zero]["weights"])
        assert_same(found[str(zero)]["average"], expected[zero]["average"])


def test_what_is_exported_is_the_average(runs: dict[int, Any], root: Path) -> None:
    from lumiray.train.checkpoint import export_model, latest

    system = duel.built()
    states = [export_model(manifest) for zero in STAGES if (manifest := latest(f"{root}/2-{zero}"))]
    assert len(states) == len(STAGES)
    for state in states[:3]:
        assert state.keys() == system.networks.state_dict().keys()
        for name, value in states[0].items():
            assert torch.allclose(state[name].double(), value.double(), rtol=0, atol=3e-6), name
    first, last = system.networks.state_dict()["maker.last.weight"], states[0]["maker.last.weight"]
    run = torch.tensor(runs[2]["0"]["average"]["maker.last.weight"]).view(last.shape)
    assert (last - first).abs().max() > 1e-4
    assert (last - run).abs().max() > 1e-4  # of the middle, not of the end


def test_gradients_within_the_forward_are_refused_under_zero_3() -> None:
    from lumiray.config import RunConfig
    from lumiray.errors import UserError
    from lumiray.train.recipe import check_recipe

    stage = duel.built().stages()[0]
    check_recipe(RunConfig(zero=2), stage, duel.STEPS)
    with pytest.raises(UserError, match=r"--zero 3 cannot train maker: .* Take --zero 2"):
        check_recipe(RunConfig(zero=3), stage, duel.STEPS)
