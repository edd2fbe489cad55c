"""Rows of like shapes in one micro-batch, and all that the plan promises as before."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest

from lumiray.data.buckets import Buckets, sorted_line
from lumiray.data.feed import join
from lumiray.data.plan import Plan, Planned, PlanSettings, Source
from lumiray.errors import UserError

SHAPES = [(1, 1, 1, 1), (3, 2, 4, 7), (5, 3, 8, 15), (8, 4, 6, 9), (4, 1, 12, 13)]  # window, micro, K, total steps


def sides(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 900, (rows, 2)).astype(np.uint16)


def plans(window: int, micro: int, count: int, steps: int, sources: tuple[Source, ...]) -> tuple[Plan, Plan]:
    plain = Plan(sources, PlanSettings(2, 8), micro * count, micro, seed=4)
    shapes = tuple(sides(source.rows, number) for number, source in enumerate(sources))
    return plain, plain.bucketed(Buckets(window, shapes, steps, 4))


def rows_of(planned: Planned) -> list[tuple[int, int, int]]:
    return list(zip(planned.source.tolist(), planned.epoch.tolist(), planned.row.tolist(), strict=True))


ONE, MIXED = (Source("a", 53),), (Source("a", 53, 3), Source("b", 17, 1), Source("c", 5, 0.3))


@pytest.mark.parametrize("sources", [ONE, MIXED])
@pytest.mark.parametrize(("window", "micro", "count", "steps"), SHAPES)
def test_each_window_has_the_rows_of_the_plan(
    window: int, micro: int, count: int, steps: int, sources: tuple[Source, ...]
) -> None:
    plain, plan = plans(window, micro, count, steps, sources)
    for first in range(0, steps, window):  # the last window ends with the run
        inside = range(first, min(steps, first + window))
        planned = Counter(row for step in inside for row in rows_of(plain.batch(step)))
        assert planned == Counter(row for step in inside for row in rows_of(plan.batch(step)))
    for step in range(steps):
        ours, theirs = plan.batch(step), plain.batch(step)
        assert np.array_equal(ours.source, theirs.source)  # so every micro-batch has its quotas
        assert np.array_equal(ours.position, theirs.position)


def test_every_row_comes_once_in_an_epoch_that_ends_within_a_window() -> None:
    rows = 60
    plan = Plan((Source("a", rows),), PlanSettings(2, 8), 12, 4, seed=1)
    plan = plan.bucketed(Buckets(4, (sides(rows),), 5, 1))
    assert sorted(row for step in range(5) for row in plan.batch(step).row.tolist()) == list(range(rows))


@pytest.mark.parametrize(("window", "micro", "count", "steps"), SHAPES)
def test_ranks_share_the_same_global_batches_from_any_step(window: int, micro: int, count: int, steps: int) -> None:
    _, plan = plans(window, micro, count, steps, MIXED)
    whole = [rows_of(plan.batch(step)) for step in range(steps + 2)]
    for world in (w for w in range(1, count + 1) if count % w == 0):
        for step in reversed(range(steps + 2)):  # a fresh plan each time: nothing is walked over
            fresh = pickle.loads(pickle.dumps(plan))
            parts = [fresh.batch(step, fresh.micro_batches_of(rank, world)) for rank in range(world)]
            assert [row for part in parts for row in rows_of(part)] == whole[step]


def test_micro_batches_hold_like_shapes_and_change_with_the_seed() -> None:
    source, micro, count, window = Source("a", 4096), 8, 4, 32
    plain, plan = plans(window, micro, count, 10 * window, (source,))
    shapes = sides(source.rows).astype(np.int64)

    def padded(plan: Plan) -> float:
        kept = total = 0
        for step in range(window):
            for batch in plan.batch(step).row.reshape(count, micro):
                kept += int(shapes[batch].prod(1).sum())
                total += micro * int(shapes[batch].max(0).prod())
        return 1 - kept / total

    assert padded(plan) < 0.4 * padded(plain)
    again = plain.bucketed(Buckets(window, (sides(source.rows),), 10 * window, 5))
    assert not np.array_equal(again.batch(0).row, plan.batch(0).row)


def test_a_line_is_a_permutation_for_pieces_of_any_length() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        pieces = generator.integers(0, 6, generator.integers(1, 30))
        line = sorted_line(sides(int(pieces.sum())), pieces)
        assert sorted(line.tolist()) == list(range(pieces.sum()))


def test_too_many_rows_and_rows_without_shapes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="height and width can be told"):
        Buckets(2, (sides(5), np.zeros((7, 2), np.uint16)), 10, 0)
    monkeypatch.setattr("lumiray.data.buckets.MOST_ROWS", 4)
    with pytest.raises(UserError, match="5 rows are more than the 4"):
        Buckets(2, (sides(5),), 10, 0)


def test_blocks_of_several_shapes_are_joined_with_zeros() -> None:
    out = np.full((3, 2, 4), 9)
    join([np.ones((1, 2, 3), int), np.ones((2, 1, 4), int)], out)
    assert out.tolist() == [[[1, 1, 1, 0]] * 2, *[[[1, 1, 1, 1], [0, 0, 0, 0]]] * 2]
