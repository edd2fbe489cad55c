"""Recall of phrases on hand-counted cases, and the same on several ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from processes import run_group

from lumiray.evaluate.phrase_recall import PhraseRecallEvaluator

TRUE = [[0.0, 0, 19, 19], [40.0, 40, 59, 59]]
FAR = [200.0, 200, 219, 219]


def outputs(wrong_before: int, valid: bool = True) -> tuple[Any, Any]:
    """Phrase 1 has two boxes, of which the second is found behind some wrong ones; phrase 2 is never found."""
    boxes = [FAR] * wrong_before + [TRUE[1], TRUE[1]]
    count = len(boxes)
    found = {
        "boxes": torch.tensor([boxes]),
        "scores": torch.linspace(0.9, 0.5, count)[None],
        "labels": torch.tensor([[1] * count]),
        "true_boxes": torch.tensor([[*TRUE, TRUE[0], [0.0] * 4]]),
        "true_labels": torch.tensor([[1, 1, 2, 0]]),
    }
    return found, {"row": torch.tensor([wrong_before]), "valid": torch.tensor([valid])}


def recalls(one: PhraseRecallEvaluator) -> tuple[float, ...]:
    return tuple(one.compute()[f"phrase_recall@{cut}"] for cut in (1, 5, 10))


@pytest.mark.parametrize(
    ("wrong_before", "expected"),
    [(0, (0.5, 0.5, 0.5)), (1, (0, 0.5, 0.5)), (4, (0, 0.5, 0.5)), (5, (0, 0, 0.5)), (10, (0, 0, 0))],
)
def test_any_true_box_counts_within_the_best(wrong_before: int, expected: tuple[float, ...]) -> None:
    one = PhraseRecallEvaluator()
    one.update(*outputs(wrong_before))
    one.update(*outputs(0, valid=False))
    assert recalls(one) == pytest.approx(expected)


def test_boxes_of_other_phrases_do_not_count_and_nothing_is_nothing() -> None:
    one = PhraseRecallEvaluator()
    assert one.compute() == {}
    found, given = outputs(0)
    one.update(found | {"labels": found["labels"] + 2}, given)
    assert recalls(one) == (0, 0, 0)


def on_ranks(rank: int, world: int) -> tuple[float, ...]:
    one = PhraseRecallEvaluator()
    for wrong_before in range(rank, 7, world):
        one.update(*outputs(wrong_before))
    return recalls(one)


def test_the_figures_do_not_depend_on_the_number_of_ranks() -> None:
    one, two = (run_group(on_ranks, world) for world in (1, 2))
    assert one == two == pytest.approx((1 / 14, 5 / 14, 7 / 14))
