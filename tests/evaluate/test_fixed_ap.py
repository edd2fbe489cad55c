"""Fixed average precision: hand-counted cases, COCO's own code where both agree, and the same on several ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from processes import run_group

from lumiray.evaluate import fixed_ap
from lumiray.evaluate.detection import coco_stats, dataset, results
from lumiray.evaluate.fixed_ap import FixedApEvaluator
from lumiray.evaluate.matching import matched, overlaps

FAR = [200.0, 200, 219, 219]
A, B = [0.0, 0, 19, 19], [40.0, 40, 59, 59]


def outputs(found: list[tuple[list[float], float, int]], true: list[tuple[list[float], int]], judged: list[int]) -> Any:
    """Of one picture: (box, score, label) and (box, label)."""
    return {
        "boxes": torch.tensor([[box for box, _, _ in found]]).reshape(1, -1, 4),
        "scores": torch.tensor([[score for _, score, _ in found]]),
        "labels": torch.tensor([[label for _, _, label in found]], dtype=torch.int64).reshape(1, -1),
        "true_boxes": torch.tensor([[box for box, _ in true]]).reshape(1, -1, 4),
        "true_labels": torch.tensor([[label for _, label in true]], dtype=torch.int64).reshape(1, -1),
        "judged": torch.tensor([judged]),
    }


def batch(row: int) -> Any:
    return {"row": torch.tensor([row]), "valid": torch.tensor([True])}


def figures(*pictures: Any, counts: dict[int, int] | None = None) -> dict[str, float]:
    one = FixedApEvaluator(counts)
    for row, picture in enumerate(pictures):
        one.update(picture, batch(row))
    return one.compute()


def test_overlap_counts_the_last_pixel() -> None:
    assert overlaps(np.array([[0, 0, 9, 9]]), np.array([[5, 0, 14, 9]]))[0, 0] == pytest.approx(50 / 150)


def test_a_true_box_is_taken_once_by_the_best() -> None:
    assert matched(np.array([A, A, B]), np.array([A, B])).all(axis=1).tolist() == [True, False, True]


def test_a_case_counted_by_hand() -> None:
    # right, wrong, right of 2: precision 1 up to recall 0.5 (51 of 101 recalls), then 2/3
    first = outputs([(A, 0.9, 1), (FAR, 0.8, 1)], [(A, 1)], [1])
    second = outputs([(B, 0.7, 1)], [(B, 1)], [1])
    assert figures(first, second)["fixed_ap"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_picture_in_which_a_class_was_not_looked_for_does_not_count() -> None:
    right = outputs([(A, 0.5, 1)], [(A, 1)], [1])
    for judged, expected in (([0], 1.0), ([1], 0.5), ([2], 1.0)):  # not looked for, absent, not every one marked
        assert figures(right, outputs([(B, 0.9, 1)], [], judged))["fixed_ap"] == pytest.approx(expected)


def test_where_some_may_not_be_marked_right_boxes_count() -> None:
    both = outputs([(FAR, 0.9, 1), (A, 0.8, 1)], [(A, 1)], [2])
    assert figures(both)["fixed_ap"] == pytest.approx(1)


def test_a_class_keeps_its_best_boxes_over_the_whole_set(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [outputs([(A, 0.9 - 0.1 * row, 1), (A, 0.3, 2)], [(A, 1), (A, 2)], [1, 1]) for row in range(3)]
    assert figures(*pictures)["fixed_ap"] == pytest.approx(1)
    monkeypatch.setattr(fixed_ap, "MOST", 2)  # of 3 in each class: recall 2/3, which 67 of 101 recalls are below
    assert figures(*pictures)["fixed_ap"] == pytest.approx(67 / 101)


def test_classes_are_rare_common_or_frequent_by_pictures() -> None:
    picture = outputs([(A, 0.9, 1), (FAR, 0.9, 2), (B, 0.9, 3)], [(A, 1), (A, 2), (B, 3)], [1, 1, 1])
    found = figures(picture, counts={1: 10, 2: 11, 3: 101})
    assert (found["fixed_ap_rare"], found["fixed_ap_common"], found["fixed_ap_frequent"]) == pytest.approx((1, 0, 1))
    assert figures(picture)["fixed_ap_rare"] == pytest.approx(2 / 3) == found["fixed_ap"]
    assert "fixed_ap_common" not in figures(picture)


def random_pictures(number: int) -> list[Any]:
    """Of 3 classes that all pictures were searched for, each with few boxes: nothing that COCO would cut off."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(number):
        corners = draw.integers(0, 60, (6, 2))
        true = [[*map(float, one), *map(float, one + draw.integers(8, 30, 2))] for one in corners]
        labels = draw.integers(1, 4, 6).tolist()
        moved = [[value + float(draw.integers(-4, 5)) for value in box] for box in true for _ in range(2)]
        guesses = [label if draw.random() < 0.8 else int(draw.integers(1, 4)) for label in labels for _ in range(2)]
        scores = (draw.integers(1, 20, 12) / 20).tolist()  # with ties
        order = np.argsort(-np.array(scores), kind="stable")
        triples = [(moved[place], scores[place], guesses[place]) for place in order]
        found.append(outputs(triples, list(zip(true, labels, strict=True)), [1, 1, 1]))
    return found


def test_it_is_coco_s_where_nothing_is_cut_off_and_every_class_is_judged() -> None:
    pictures = random_pictures(12)
    plain = [{name: value[0].numpy() for name, value in one.items()} for one in pictures]
    stats = coco_stats(dataset(plain), [one for number, own in enumerate(plain) for one in results(number, own)])
    ours = figures(*pictures)
    assert 0.05 < ours["fixed_ap"] < 0.95
    assert [ours["fixed_ap"], ours["fixed_ap_50"], ours["fixed_ap_75"]] == pytest.approx(stats[:3].tolist(), abs=1e-9)


def on_ranks(rank: int, world: int) -> dict[str, float]:
    one = FixedApEvaluator()
    for row, picture in enumerate(random_pictures(7)):
        if row % world == rank:
            one.update(picture, batch(row))
    return one.compute()


def test_the_figures_do_not_depend_on_the_number_of_ranks() -> None:
    one, two = (run_group(on_ranks, world) for world in (1, 2))
    assert one == two == figures(*random_pictures(7))
