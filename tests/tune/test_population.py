"""Population based training on the session's cluster: who took over whom, from which weights, with which values."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tune.test_search import places, rows, start, study_of, until  # noqa: F401

LENGTH = ("--steps", "12", "--evaluate.every", "2", "--grace", "4")


def test_poor_trials_go_on_from_the_checkpoints_of_good_ones(
    tmp_path: Path, ray_address: str, places: tuple[str, ...]  # noqa: F811
) -> None:
    output = tmp_path / "study"
    code, text = start(output, ray_address, *places, *LENGTH, "--scheduler", "pbt", "--trials", "4").finish()
    print(text)
    assert code == 0, text
    for one in study_of(output).trials():
        print(one)
    raise AssertionError
