"""Ranks and best candidates in tiles equal those over the full matrix: ties, odd tiles, bad numbers, memory."""

from __future__ import annotations

from typing import Any

import full_matrix
import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as some
from torch.overrides import TorchFunctionMode

from lumiray.evaluate.ranks import partner_ranks, top_candidates
from lumiray.evaluate.retrieval import both_ranks


@settings(max_examples=60, deadline=None)
@given(
    seed=some.integers(0, 2**32 - 1),
    num_queries=some.integers(0, 15),
    num_candidates=some.integers(1, 25),
    width=some.integers(1, 4),
    chunk=some.integers(1, 30),
    most=some.integers(1, 30),
)
def test_tiles_give_the_ranks_and_the_order_of_the_full_matrix(
    seed: int, num_queries: int, num_candidates: int, width: int, chunk: int, most: int
) -> None:
    draw = np.random.default_rng(seed)
    queries = full_matrix.whole_numbers(draw, num_queries, width)
    candidates = full_matrix.whole_numbers(draw, num_candidates, width)
    partners = draw.integers(0, num_candidates, num_queries).tolist()
    orders = [full_matrix.best_first(one, candidates) for one in queries]

    left, right = torch.tensor(queries).reshape(-1, width), torch.tensor(candidates)
    ranks = partner_ranks(left, right, torch.tensor(partners, dtype=torch.int64), chunk)
    assert ranks.tolist() == [order.index(own) for order, own in zip(orders, partners, strict=True)]
    best = top_candidates(left, right, most, chunk)
    assert best.shape == (num_queries, min(most, num_candidates))
    assert best.tolist() == [order[:most] for order in orders]


@pytest.fixture(scope="module")
def repeated() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[list[int]]]:
    """Queries, candidates of which many are equal, partners, and each query's candidates in their order.

    Fractions this time, whose scores are rounded: equal candidates must tie all the same.
    """
    draw = torch.Generator().manual_seed(0)
    kinds = functional.normalize(torch.randn(30, 64, generator=draw), dim=1)
    kind = torch.randint(0, 30, (700,), generator=draw)
    queries = functional.normalize(torch.randn(90, 64, generator=draw), dim=1)
    partners = torch.randint(0, 700, (90,), generator=draw)
    of_kinds = (queries.double() @ kinds.double().T).tolist()
    orders = [sorted(range(700), key=lambda n, row=row: (-row[int(kind[n])], n)) for row in of_kinds]
    return queries, kinds[kind], partners, orders


@pytest.mark.parametrize("chunk", [7, 64, 333, 1024])
def test_equal_candidates_tie_wherever_they_stand_in_a_tile(repeated: Any, chunk: int) -> None:
    queries, candidates, partners, orders = repeated
    expected = [order.index(int(own)) for order, own in zip(orders, partners, strict=True)]
    assert partner_ranks(queries, candidates, partners, chunk).tolist() == expected
    assert top_candidates(queries, candidates, 40, chunk).tolist() == [order[:40] for order in orders]


@pytest.mark.parametrize("share", [1, 2, 30])
def test_ranks_do_not_depend_on_how_many_queries_are_asked_at_once(repeated: Any, share: int) -> None:
    queries, candidates, partners, orders = repeated
    parts = zip(queries.split(share), partners.split(share), strict=True)
    ranks = torch.cat([partner_ranks(rows, candidates, own, chunk=333) for rows, own in parts])
    assert ranks.tolist() == [order.index(int(own)) for order, own in zip(orders, partners, strict=True)]


@pytest.mark.parametrize("chunk", [2, 100])
def test_scores_that_are_not_numbers_rank_last(chunk: int) -> None:
    candidates = torch.eye(5)
    candidates[1] = torch.nan
    queries = torch.eye(5)
    queries[3] = torch.nan
    ranks = partner_ranks(queries, candidates, torch.arange(5), chunk)
    assert ranks.tolist() == [0, 4, 0, 4, 0]
    best = top_candidates(queries, candidates, 5, chunk)
    assert best[0].tolist() == [0, 2, 3, 4, 1]
    assert sorted(best[3].tolist()) == [0, 1, 2, 3, 4]


def test_a_network_that_gives_one_answer_to_everything_is_as_good_as_chance() -> None:
    same = torch.ones(40, 3)
    assert partner_ranks(same, same, torch.arange(40), chunk=16).tolist() == list(range(40))
    assert top_candidates(same, same, 3, chunk=16).tolist() == [[0, 1, 2]] * 40


class LargestTensor(TorchFunctionMode):
    """Remembers the largest tensor that a function of torch gave while it is on."""

    elements = 0

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        made = function(*arguments, **(named or {}))
        for one in made if isinstance(made, tuple) else (made,):
            # expanded views hold no memory of their own
            if isinstance(one, torch.Tensor) and one.untyped_storage().nbytes() >= one.numel() * one.element_size():
                self.elements = max(self.elements, one.numel())
        return made


def test_memory_grows_with_the_candidates_and_never_with_their_square() -> None:
    chunk, most = 200, 10
    largest = {}
    for count in (2_000, 4_000):
        image, text = torch.randn(2, count, 16, generator=torch.Generator().manual_seed(1))
        with LargestTensor() as seen:
            both_ranks(image, text, torch.arange(count), chunk)
            top_candidates(text[:500], image, most, chunk)
        largest[count] = seen.elements
    assert largest[2_000] == chunk * (chunk + most)
    assert largest[4_000] == 4_000 * 16  # the features themselves, where all scores would be 16,000,000
