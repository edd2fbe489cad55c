"""Average precision of boxes: COCO's numbers on cases that can be counted by hand, and the same on several ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from processes import run_group

from lumiray.evaluate.detection import BoxEvaluator, corner_and_size

TRUE = torch.tensor([[10.0, 10, 29, 29], [50, 50, 79, 79], [0, 0, 0, 0]])


def outputs(shift: float = 0.0, labels: tuple[int, ...] = (1, 2), scores: tuple[float, ...] = (0.9, 0.8)) -> Any:
    boxes = torch.zeros(1, 4, 4)
    boxes[0, : len(labels)] = TRUE[: len(labels)] + shift
    padded = torch.zeros(1, 4)
    padded[0, : len(scores)] = torch.tensor(scores)
    given = torch.zeros(1, 4, dtype=torch.long)
    given[0, : len(labels)] = torch.tensor(labels)
    truth = {"true_boxes": TRUE[None], "true_labels": torch.tensor([[1, 2, 0]])}
    return {"boxes": boxes, "scores": padded, "labels": given} | truth


def batch(row: int, valid: bool = True) -> Any:
    return {"row": torch.tensor([row]), "valid": torch.tensor([valid])}


def figures(*found: Any) -> dict[str, float]:
    one = BoxEvaluator()
    for row, single in enumerate(found):
        one.update(single, batch(row))
    return one.compute()


def test_a_box_has_its_last_pixel() -> None:
    assert corner_and_size(np.array([10, 10, 29, 39])) == ([10, 10], [20, 30])


def test_right_boxes_are_all_right_and_wrong_labels_all_wrong() -> None:
    assert figures(outputs()) == pytest.approx({"box_ap": 1, "box_ap_50": 1, "box_ap_75": 1})
    assert figures(outputs(labels=(2, 1))) == pytest.approx({"box_ap": 0, "box_ap_50": 0, "box_ap_75": 0})
    assert figures(outputs(labels=(), scores=())) == pytest.approx({"box_ap": 0, "box_ap_50": 0, "box_ap_75": 0})


def test_a_shifted_box_counts_up_to_its_overlap() -> None:
    # 20 wide shifted by 3: IoU (17 * 17) / (800 - 289) = 0.566; 30 wide: (27 * 27) / (1800 - 729) = 0.681
    found = figures(outputs(shift=3.0))
    assert found["box_ap_50"] == pytest.approx(1)
    assert found["box_ap_75"] == pytest.approx(0)
    assert found["box_ap"] == pytest.approx((2 / 10 + 4 / 10) / 2)  # right at 0.50, 0.55; and at 0.50 to 0.65


def test_padding_and_rows_that_cannot_be_used_do_not_count() -> None:
    one = BoxEvaluator()
    one.update(outputs(), batch(0))
    one.update(outputs(labels=(2, 1)), batch(1, valid=False))
    assert one.compute()["box_ap"] == pytest.approx(1)
    empty = outputs() | {"true_labels": torch.zeros(1, 3, dtype=torch.long)}
    assert figures(empty) == {}


def on_ranks(rank: int, world: int) -> dict[str, float]:
    one = BoxEvaluator()
    for row in range(rank, 5, world):
        one.update(outputs(shift=row, scores=(0.9 - 0.1 * row, 0.8 - 0.1 * row)), batch(row))
    return one.compute()


def test_the_figures_do_not_depend_on_the_number_of_ranks() -> None:
    one, two = (run_group(on_ranks, world) for world in (1, 2))
    assert one == two
    assert 0 < one["box_ap"] < 1
