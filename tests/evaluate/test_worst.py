"""The worst pictures of a set are the same ones from any number of ranks, and small enough to be handed on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from fidelity_sets import COUNT, UNUSABLE, pair, worst_of, worst_on_ranks
from processes import run_group

from lumiray.evaluate.fidelity import psnr
from lumiray.evaluate.worst import LONGEST, WorstPictures, small

FIGURES = {number: float(psnr(*pair(number))) for number in range(COUNT) if number not in UNUSABLE}
ORDER = sorted(FIGURES, key=lambda number: FIGURES[number])


def test_the_lowest_figures_come_first_and_unusable_rows_never() -> None:
    for count in (1, 3, 100):
        cases = worst_of(0, 1, count)
        assert [case.row for case in cases] == ORDER[:count]
        assert [case.figure for case in cases] == [FIGURES[number] for number in ORDER[:count]]


def test_several_ranks_have_the_same_ones_all_of_them() -> None:
    everyone: list[list[Any]] = run_group(worst_on_ranks, 2, 3)
    assert everyone == [ORDER[:3]] * 2


def test_the_pictures_are_what_was_compared_and_the_input_where_the_batch_has_one() -> None:
    (case,) = worst_of(0, 1, 1)
    restored, reference = pair(case.row)
    assert list(case.pictures) == ["restored", "reference"]
    assert np.array_equal(case.pictures["restored"], restored[0].permute(1, 2, 0).numpy())
    kept = WorstPictures(psnr, 1)
    batch = {"row": torch.tensor([4]), "valid": torch.tensor([True]), "lq": restored // 2}
    kept.update({"restored": restored, "reference": reference}, batch)
    (case,) = kept.cases()
    assert list(case.pictures) == ["input", "restored", "reference"]
    assert np.array_equal(case.pictures["input"], restored[0].permute(1, 2, 0).numpy() // 2)
    assert kept.compute() == {}


def test_of_equal_figures_the_earlier_row_counts() -> None:
    restored, reference = pair(1)
    kept = WorstPictures(psnr, 2)
    for row in (5, 3, 4):
        batch = {"row": torch.tensor([row]), "valid": torch.tensor([True])}
        kept.update({"restored": restored, "reference": reference}, batch)
    assert [case.row for case in kept.cases()] == [3, 4]


def test_large_pictures_are_made_small_and_others_stay() -> None:
    assert small(torch.zeros(3, 2 * LONGEST, LONGEST, dtype=torch.uint8)).shape == (LONGEST, LONGEST // 2, 3)
    level = small(torch.full((3, 9, 5000), 77, dtype=torch.uint8))
    assert level.shape == (1, LONGEST, 3) and (level == 77).all()
    assert small(torch.zeros(3, 11, 40, dtype=torch.uint8)).shape == (11, 40, 3)
