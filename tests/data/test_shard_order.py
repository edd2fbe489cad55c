"""Orders of whole shards: every row once per epoch, any position at once, few shards in a group; on small grids."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumiray.data.plan import Plan, PlanSettings, Source
from lumiray.data.shard_order import ShardOrder
from lumiray.errors import UserError

SIZES = [
    [1],
    [0, 1, 0],
    [5],
    [1, 1, 1, 1, 1],
    [0, 0, 7, 0, 3, 1],
    [64, 64, 64],
    [10, 0, 1, 33, 2, 0, 16, 16, 5],
    [100, 1, 0, 0, 99, 0],
]
GROUPS = [1, 2, 5, 16, 64, 1000]
any_sizes = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("group_rows", GROUPS)
def test_every_row_comes_once_per_epoch_and_any_position_is_reached_without_walking(
    sizes: list[int], group_rows: int
) -> None:
    order = ShardOrder(np.array(sizes), 7, group_rows)
    rows = sum(sizes)
    assert order.rows == rows
    for epoch in (0, 1, 5):
        whole = order.rows_at(epoch, 0, rows)
        assert np.array_equal(np.sort(whole), np.arange(rows))
        for start in range(0, rows, 3):
            for length in (0, 1, 2, 33):
                stop = min(rows, start + length)
                assert np.array_equal(order.rows_at(epoch, start, stop), whole[start:stop])
                fresh = ShardOrder(np.array(sizes), 7, group_rows)
                assert np.array_equal(fresh.rows_at(epoch, start, stop), whole[start:stop])


@settings(max_examples=150, deadline=None)
@given(sizes=any_sizes, group_rows=st.integers(1, 60), seed=st.integers(0, 2**40), epoch=st.integers(0, 9))
def test_a_group_is_rows_of_shards_that_follow_each_other_and_of_no_more_than_their_sizes_imply(
    sizes: list[int], group_rows: int, seed: int, epoch: int
) -> None:
    order = ShardOrder(np.array(sizes), seed, group_rows)
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    shards = shard_of[order.rows_at(epoch, 0, order.rows)]
    smallest = np.cumsum(sorted(size for size in sizes if size))
    # all but the first and the last of them lie in the group with all of their rows
    most = 2 + int(np.searchsorted(smallest, max(0, group_rows - 2), side="right"))
    groups = [shards[start : start + group_rows] for start in range(0, order.rows, group_rows)]
    assert max(len(set(group.tolist())) for group in groups) <= most
    for one, following in pairwise(groups):  # what lies in two groups lies in neighbours, and is one shard
        assert len(set(one.tolist()) & set(following.tolist())) <= 1
    for shard, size in enumerate(sizes):
        places = np.flatnonzero(shards == shard) // group_rows
        assert len(places) == size
        assert size == 0 or places[-1] - places[0] <= (size - 1) // group_rows + 1


@settings(max_examples=60, deadline=None)
@given(sizes=any_sizes, group_rows=st.integers(1, 60), epoch=st.integers(0, 3))
def test_what_is_near_a_row_is_its_group_and_the_one_before(sizes: list[int], group_rows: int, epoch: int) -> None:
    order = ShardOrder(np.array(sizes), 1, group_rows)
    rows = order.rows_at(epoch, 0, order.rows)
    for position, row in enumerate(rows.tolist()):
        group = position // group_rows
        assert order.near(epoch, row) == (
            max(0, group - 1) * group_rows,
            min(order.rows, (group + 1) * group_rows),
        )


@settings(max_examples=60, deadline=None)
@given(
    sizes=any_sizes,
    micro=st.integers(1, 7),
    count=st.integers(1, 12),
    group_rows=st.integers(1, 50),
    step=st.integers(0, 10**6),
)
def test_the_global_batch_is_the_same_for_any_number_of_ranks(
    sizes: list[int], micro: int, count: int, group_rows: int, step: int
) -> None:
    source = Source("a", sum(sizes), rows_per_shard=np.array(sizes))
    plan = Plan([source], PlanSettings(group_rows=group_rows, read="shard"), micro * count, micro, seed=2)
    whole = plan.batch(step)
    for world in [w for w in range(1, count + 1) if count % w == 0]:
        parts = [plan.batch(step, plan.micro_batches_of(rank, world)) for rank in range(world)]
        for name in ("source", "epoch", "row", "position"):
            joined = np.concatenate([getattr(part, name) for part in parts])
            assert np.array_equal(joined, getattr(whole, name))


def test_an_epoch_of_steps_holds_every_row_and_the_last_batch_goes_on_into_the_next() -> None:
    sizes = np.array([30, 0, 41, 1, 29])
    plan = Plan([Source("a", 101, rows_per_shard=sizes)], PlanSettings(group_rows=16, read="shard"), 24, 4, seed=5)
    batches = [plan.batch(step) for step in range(plan.steps_for(3, "a"))]
    rows, epochs = (np.concatenate([getattr(batch, name) for batch in batches]) for name in ("row", "epoch"))
    for epoch in range(3):
        assert np.array_equal(np.sort(rows[epochs == epoch]), np.arange(101))
    assert (epochs == 3).sum() == len(rows) - 303


def test_shards_and_rows_are_shuffled_anew_by_seed_and_epoch() -> None:
    sizes = np.full(2000, 40)  # of so many shards a correlation by chance is about 0.02

    def rows(seed: int, epoch: int) -> np.ndarray:
        return ShardOrder(sizes, seed, 80).rows_at(epoch, 0, 80_000)

    assert np.array_equal(rows(1, 0), rows(1, 0))
    for other in (rows(2, 0), rows(1, 1)):
        assert abs(np.corrcoef(rows(1, 0), other)[0, 1]) < 0.1
        assert not np.array_equal(rows(1, 0)[::40] // 40, other[::40] // 40)
    assert abs(np.corrcoef(rows(1, 0), np.arange(80_000))[0, 1]) < 0.1
    within = rows(1, 0)[:80] % 40
    assert not np.array_equal(within, np.sort(within))


def test_it_travels_without_what_it_remembers() -> None:
    order = ShardOrder(np.full(10_000, 3), 0, 16)
    before = len(pickle.dumps(order))
    expected = order.rows_at(3, 100, 200)
    assert len(pickle.dumps(order)) == before
    assert np.array_equal(pickle.loads(pickle.dumps(order)).rows_at(3, 100, 200), expected)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="no rows"):
        ShardOrder(np.array([0, 0]), 0)
    with pytest.raises(UserError, match=r"--data\.group-rows is 0"):
        ShardOrder(np.array([1]), 0, 0)
    for start, stop in ((-1, 2), (0, 4), (2, 1)):
        with pytest.raises(ValueError, match="not within an epoch of 3"):
            ShardOrder(np.array([1, 2]), 0).rows_at(0, start, stop)
    for sizes in (None, np.array([4])):
        with pytest.raises(ValueError, match="do not have 5 rows together"):
            Plan([Source("a", 5, rows_per_shard=sizes)], PlanSettings(read="shard"), 4, 4, 0)


def test_the_order_never_changes() -> None:
    """A checkpoint stores a position only: what stands at it must be the same in every later version."""
    source = Source("a", 1000, rows_per_shard=np.array([100, 0, 250, 1, 649]))
    plan = Plan([source], PlanSettings(group_rows=64, read="shard"), 8, 8, seed=1)
    assert plan.batch(1234).row.tolist() == ORDERED


ORDERED: list[int] = [839, 848, 853, 879, 876, 875, 856, 832]
