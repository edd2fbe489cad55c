"""Retrieval figures against the full matrices: several captions per picture, pictures without one, ties."""

from __future__ import annotations

import full_matrix
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from lumiray.evaluate.retrieval import RetrievalEvaluator, multi_caption_recall, retrieval_metrics, summary


@settings(max_examples=50, deadline=None)
@given(
    seed=some.integers(0, 2**32 - 1),
    num_pictures=some.integers(1, 14),
    num_captions=some.integers(1, 30),
    width=some.integers(1, 4),
    chunk=some.integers(1, 35),
)
def test_figures_equal_those_of_the_full_matrices(
    seed: int, num_pictures: int, num_captions: int, width: int, chunk: int
) -> None:
    draw = np.random.default_rng(seed)
    image = full_matrix.whole_numbers(draw, num_pictures, width)
    text = full_matrix.whole_numbers(draw, num_captions, width)
    owner = draw.integers(0, num_pictures, num_captions).tolist()  # some pictures have many, some none; in no order
    features = torch.tensor(image), torch.tensor(text), torch.tensor(owner)
    assert retrieval_metrics(*features, chunk=chunk) == pytest.approx(full_matrix.retrieval(image, text, owner))
    expected = full_matrix.multi_caption(image, text, owner, (1, 3, 5))
    assert multi_caption_recall(*features, ks=(1, 3, 5), chunk=chunk) == pytest.approx(expected)


def test_without_owners_caption_i_belongs_to_picture_i() -> None:
    draw = np.random.default_rng(3)
    image, text = (full_matrix.whole_numbers(draw, 23, 3) for _ in range(2))
    found = retrieval_metrics(torch.tensor(image), torch.tensor(text), chunk=5)
    assert found == pytest.approx(full_matrix.retrieval(image, text, list(range(23))))


@pytest.mark.parametrize("ranks", [[0], [3, 0], [0, 1, 2, 3], [9, 9, 0, 4, 12, 1], [0, 5, 10, 10, 10, 11, 400]])
def test_summary_counts_ranks_from_one_and_takes_the_lower_of_two_medians(ranks: list[int]) -> None:
    found = summary(torch.tensor(ranks), "x", 401)
    assert found == pytest.approx(full_matrix.summary(ranks, "x", 401))


def batch(rows: list[int], valid: list[bool], captions: list[int], width: int = 2) -> tuple[dict, dict]:
    """Outputs and batch of rows with so many captions each; features say which row and caption they are of."""
    owner = torch.arange(len(rows)).repeat_interleave(torch.tensor(captions))
    numbers = torch.tensor(rows)
    outputs = {
        "image": torch.stack([numbers, numbers**2], dim=1).float(),
        "text": torch.stack([numbers[owner], numbers[owner] ** 2], dim=1).float() + 0.25,
        "owner": owner,
    }
    return outputs, {"row": numbers, "valid": torch.tensor(valid)}


def test_masked_rows_and_rows_without_a_caption_take_no_part() -> None:
    evaluator = RetrievalEvaluator()
    evaluator.update(*batch([0, 1, 2, 2], [True, True, True, False], [1, 0, 2, 1]))
    evaluator.update(*batch([4, 5, 0, 0], [True, True, False, False], [3, 1, 1, 1]))
    figures = evaluator.compute()
    assert evaluator.images["row"].tolist() == [0, 2, 4, 5]
    assert evaluator.texts["row"].tolist() == [0, 2, 2, 4, 4, 4, 5]
    image, text = (one.tolist() for one in (evaluator.images["image"], evaluator.texts["text"]))
    assert figures == pytest.approx(full_matrix.retrieval(image, text, [0, 1, 1, 2, 2, 2, 3]))


def test_best_pictures_say_which_row_each_place_is() -> None:
    evaluator = RetrievalEvaluator()
    evaluator.update(*batch([7, 3, 5], [True, True, True], [1, 1, 2]))
    evaluator.compute()
    found = evaluator.best_pictures(2)
    assert found["row"] == [3, 5, 7]  # planned order, whatever came first
    image, text = (one.tolist() for one in (evaluator.images["image"], evaluator.texts["text"]))
    orders = [full_matrix.best_first(one, image) for one in text]
    assert found["best"] == [order[:2] for order in orders]
    assert found["rank"] == [order.index(own) for order, own in zip(orders, [0, 1, 1, 2], strict=True)]


def test_rows_without_any_caption_give_no_figures_and_no_best_pictures() -> None:
    evaluator = RetrievalEvaluator()
    evaluator.update(*batch([0, 1, 2], [True, True, False], [0, 0, 0]))
    assert evaluator.compute() == {}
    assert evaluator.best_pictures(5) == {"row": [], "best": [], "rank": []}


def test_a_network_that_gives_no_numbers_retrieves_nothing() -> None:
    nothing = torch.full((30, 4), torch.nan)
    figures = retrieval_metrics(nothing, nothing)
    assert figures["text_to_image_R@10"] == figures["image_to_text_R@10"] == 0
