"""Numbers of the published code are met by every case in `cases/`, and the check tells when they are not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.parity import check

CASES = check.cases_below(Path(__file__).with_name("cases"))
QUICK = Path("zs-n2n", "loss")


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def test_a_published_case_is_met(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = check.main([str(folder)])
    assert code == 0, capsys.readouterr().out


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A copy of a case that takes no time, to be spoilt."""
    return Path(shutil.copytree(Path(__file__).with_name("cases") / QUICK, tmp_path / QUICK))


def rewrite(case: Path, **changed: Any) -> None:
    spec = json.loads((case / "case.json").read_text())
    (case / "case.json").write_text(json.dumps(spec | changed))


def expect(case: Path, **changed: np.ndarray) -> None:
    with np.load(case / "expected.npz") as stored:
        values = dict(stored)
    np.savez(case / "expected.npz", **(values | changed))


def test_another_fill_is_another_result(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(case, salt=json.loads((case / "case.json").read_text())["salt"] + " else")
    assert check.main([str(case)]) == 1
    assert capsys.readouterr().out.startswith("zs-n2n/loss: FAIL, AssertionError: ")


def test_an_expected_output_that_nobody_computes_fails(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expect(case, one_more=np.zeros(3, np.float32))
    assert check.main([str(case)]) == 1
    assert "not computed: one_more" in capsys.readouterr().out


def test_an_expected_output_is_held_to_the_tolerance(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with np.load(case / "expected.npz") as stored:
        name = sorted(stored)[0]
        value = stored[name]
    expect(case, **{name: value + 0.01 * np.abs(value).max()})
    assert check.main([str(case)]) == 1
    assert "FAIL" in capsys.readouterr().out


@pytest.mark.parametrize("changed", [{"kind": "nothing"}, {"system": "nobody"}])
def test_a_kind_that_is_unknown_fails(case: Path, changed: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(case, **changed)
    assert check.main([str(case)]) == 1
    assert "FAIL, LookupError: no runner for kind" in capsys.readouterr().out


def test_a_tensor_that_the_model_does_not_take_fails(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = json.loads((case / "case.json").read_text())
    rewrite(case, tensors=[*spec["tensors"], ["conv9.weight", [3, 3], "filled"]])
    assert check.main([str(case)]) == 1
    assert "conv9.weight" in capsys.readouterr().out


def test_a_folder_without_cases_fails_and_others_are_still_run(
    case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert check.main([str(tmp_path / "empty")]) == 1
    assert "no case.json below" in capsys.readouterr().out
    second = Path(shutil.copytree(case, tmp_path / "a" / "spoilt"))
    rewrite(second, kind="nothing")
    assert check.main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0].split(": ")[1] for line in lines] == ["FAIL", "ok"]
