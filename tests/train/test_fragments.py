"""The fp32 master state of real engines: read, written and clamped the same way on every stage and precision."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import pytest
import state_groups
import tiny
import torch
from processes import run_group

KINDS = [f"{stage}/{precision}" for stage, precision in state_groups.TABLE]


@pytest.fixture(scope="module", params=[2, 3])
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    return run_group(state_groups.fragments, request.param)


def test_the_release_whose_private_fields_are_read(found: dict[str, Any]) -> None:
    assert importlib.metadata.version("deepspeed") == "0.19.8", "read layout.py again, then change this line"
    assert {kind: missing for kind, missing in found["fields"].items() if missing} == {}


def whole(owned: list[Any], shapes: dict[str, list[int]], part: int) -> dict[str, list[float]]:
    """Put the ranks' fragments together; fails where an element is missing or written twice."""
    found: dict[str, list[float]] = {}
    for rank in owned:
        for one in rank:
            name, start = one[0], one[1]
            size = int(torch.tensor(shapes[name]).prod())
            values = found.setdefault(name, [float("nan")] * size)
            for number, value in enumerate(one[part]):
                assert values[start + number] != values[start + number], f"{name} element {start + number} twice"
                values[start + number] = value
    return found


@pytest.mark.parametrize("kind", [*KINDS, "accumulating", "offload", "offload3"])
def test_fragments_are_the_master_state_each_element_once(found: dict[str, Any], kind: str) -> None:
    case = found["read"].get(kind) or found[kind]
    master = whole(case["owned"], case["shapes"], 2)
    moments = whole(case["owned"], case["shapes"], 3)
    trained = {"first.weight", "first.bias", "shift", "scale", "last.weight", "last.bias"}
    assert trained <= set(master) <= trained | {"unused"}
    for name, (values, first_moment) in case["theirs"].items():
        assert master[name] == values
        assert first_moment is None or moments[name] == first_moment
    assert {name: case["full"][name] for name in master} == master
    assert any(moments["last.weight"])
    assert case["step"] == [2]


@pytest.mark.parametrize("kind", KINDS)
def test_whole_values_on_every_rank(found: dict[str, Any], kind: str) -> None:
    case = found["read"][kind]
    for rank in case["small"]:
        assert list(rank) == ["scale", "frozen.bias", "shift"]
        assert rank == {name: case["full"][name] for name in rank}
    assert case["shapes"]["count"] == [] and case["dtypes"]["count"] == "torch.int64"
    assert case["dtypes"]["frozen.weight"] == case["dtypes"]["first.weight"] == "torch.float32"
    assert "mask" not in case["full"] and "tied.weight" not in case["full"]
    assert case["written"] == [7.0]  # fragments are views: what is written into them is the master


@pytest.mark.parametrize("kind", KINDS)
def test_clamping_holds_in_the_master_and_in_the_working_weight(found: dict[str, Any], kind: str) -> None:
    case = found["clamp"][kind]
    low, high = (float(torch.tensor(bound)) for bound in tiny.BOUNDS["scale"])
    dtype = getattr(torch, case["dtype"].removeprefix("torch."))
    for rank in case["steps"]:
        assert rank == case["steps"][0]
        for moved, master, weight in rank:
            assert not low <= moved <= high, "this step did not leave the bounds: the test shows nothing"
            assert master == (low if moved < low else high)
            assert weight == float(torch.tensor(master).to(dtype))


def test_sixteen_bit_stage_0_starts_like_the_other_stages(found: dict[str, Any]) -> None:
    whole_state, cut_state = found["fresh"]
    for name, values in whole_state.items():
        assert values == pytest.approx(cut_state[name], abs=2e-3), name
