"""Checkpoints of real engines: the same ranks go on bit by bit, other ranks and ZeRO stages to rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import state_groups
from processes import run_group
from state_groups import STAGES, TABLE, plain

from lumiray.train.checkpoint import export_model, latest

KINDS = [f"{stage}/{precision}" for stage, precision in TABLE]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def of_two(root: Path) -> dict[str, Any]:
    """Every kind, saved and resumed by two ranks; then every fp32 stage into every other."""
    return run_group(state_groups.by_two, 2, str(root))


@pytest.fixture(scope="module")
def of_one(root: Path, of_two: dict[str, Any]) -> dict[str, Any]:
    """One rank: continues what two saved, and saves for three."""
    return run_group(state_groups.by_one, 1, str(root))


@pytest.fixture(scope="module")
def of_three(root: Path, of_one: dict[str, Any]) -> dict[str, Any]:
    """Three ranks, of which some hold nothing of a small tensor."""
    return run_group(state_groups.by_three, 3, str(root))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_ranks_continue_bit_by_bit(of_two: dict[str, Any], kind: str) -> None:
    case = of_two["table"][kind]
    assert case["position"] == {"step": 3, "note": "é"}
    assert case["differences"] == [[], []]
    for uncut, continued in case["losses"]:
        assert uncut == continued
    assert case["at_save"] != case["end"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.endswith("fp16")])
def test_the_loss_scale_continues(of_two: dict[str, Any], kind: str) -> None:
    saved, restored, uncut, continued = of_two["table"][kind]["scale"]
    assert saved == restored and uncut == continued
    assert saved["iteration"] == 3 and saved["scale"] != 2**18


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_is_the_master_state_without_any_engine(of_two: dict[str, Any], root: Path, kind: str) -> None:
    manifest = latest(str(root / kind.replace("/", "-")))
    assert manifest is not None and manifest.step == 3 and manifest.world_size == 2
    assert manifest.identity == {"seed": 7} and manifest.metrics == {"recall": 0.5}
    exported = export_model(manifest)
    expected = of_two["table"][kind]["at_save"]
    assert plain(exported) == expected | {"tied.weight": expected["first.weight"]}
    assert exported["count"].shape == () and exported["count"].dtype.is_signed
    assert str(exported["frozen.weight"].dtype) == "torch.float32"


@pytest.mark.parametrize("saved", STAGES)
@pytest.mark.parametrize("loaded", STAGES)
def test_another_stage_continues_to_rounding(of_two: dict[str, Any], saved: int, loaded: int) -> None:
    assert_continued(of_two["table"][f"{saved}/fp32"], of_two["across"][f"{saved}-fp32>{loaded}"])


@pytest.mark.parametrize("name", state_groups.OF_TWO_BY_ONE)
def test_one_rank_continues_what_two_saved(of_two: dict[str, Any], of_one: dict[str, Any], name: str) -> None:
    assert_continued(of_two["table"][name.split(">")[0].replace("-", "/")], of_one["across"][name])


@pytest.mark.parametrize("name", state_groups.OF_TWO_BY_THREE)
def test_three_ranks_continue_what_two_saved(of_two: dict[str, Any], of_three: dict[str, Any], name: str) -> None:
    assert_continued(of_two["table"][name.split(">")[0].replace("-", "/")], of_three["across"][name])


@pytest.mark.parametrize("name", state_groups.OF_ONE_BY_THREE)
def test_three_ranks_continue_what_one_saved(of_one: dict[str, Any], of_three: dict[str, Any], name: str) -> None:
    assert_continued(of_one["table"][name.split(">")[0]], of_three["across"][name])


def assert_continued(saved: dict[str, Any], continued: dict[str, Any]) -> None:
    """Restored exactly, and after three more steps of Adam the same to 2e-6."""
    assert continued["restored"] == saved["at_save"]
    assert continued["steps"] in ([3.0], [-1.0, 3.0])  # an unused weight has no state under stage 0
    for name, values in saved["end"].items():
        assert continued["end"][name] == pytest.approx(values, abs=2e-6), name


@pytest.mark.parametrize("kind", ["momentum", "sgd", "cpu-adam", "before-any-step"])
def test_other_optimizers_continue_bit_by_bit(of_two: dict[str, Any], kind: str) -> None:
    assert of_two["others"][kind]["differences"] == [[], []]


@pytest.mark.parametrize("case", sorted(state_groups.REFUSED))
def test_every_rank_is_told_what_is_wrong(of_two: dict[str, Any], case: str) -> None:
    first, second = of_two["refused"][case]
    assert first == second
    said = {
        "corrupt": "step-00000002/rank-00001-of-00002-",
        "truncated": "bytes instead of",
        "missing": "it is missing",
        "names": "has no extra",
        "optimizer": "momentum_buffer",
    }
    assert said[case] in first
    if case in ("corrupt", "truncated"):
        assert "--resume " in first and first.rstrip().endswith("step-00000001")
    if case == "missing":
        assert "no earlier checkpoint" in first
    if case == "names":
        assert "unused" in first and "shift [11] instead of [4]" in first
