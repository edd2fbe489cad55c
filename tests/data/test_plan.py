"""Every row once per epoch, the same batches for any number of ranks, any position at once: on small grids."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumiray.data.mixture import Mixture
from lumiray.data.plan import Order, Plan, PlanSettings, Source, evaluation_batches
from lumiray.data.randomness import row_generator
from lumiray.errors import UserError

SHAPES = [(1, 1), (1, 4), (2, 4), (4, 4), (4, 16), (3, 9), (16, 64), (5, 20)]


@pytest.mark.parametrize(("slice_rows", "group_rows"), SHAPES)
def test_every_row_comes_once_per_epoch(slice_rows: int, group_rows: int) -> None:
    for rows in [*range(1, 70), 127, 128, 129, 500]:
        order = Order(rows, 7, slice_rows, group_rows)
        for epoch in (0, 1, 5):
            got = order.rows_at(epoch, 0, rows)
            assert np.array_equal(np.sort(got), np.arange(rows)), (rows, epoch)


@pytest.mark.parametrize(("slice_rows", "group_rows"), SHAPES)
def test_any_position_is_reached_without_walking_to_it(slice_rows: int, group_rows: int) -> None:
    for rows in (1, 2, 15, 16, 17, 63, 64, 65, 100):
        order = Order(rows, 3, slice_rows, group_rows)
        whole = order.rows_at(2, 0, rows)
        for start in range(rows):
            for length in (0, 1, 2, 7, 33):
                stop = min(rows, start + length)
                assert np.array_equal(order.rows_at(2, start, stop), whole[start:stop])


def test_the_short_slice_stays_in_the_last_group_and_slices_stay_together() -> None:
    order = Order(rows=103, seed=1, slice_rows=4, group_rows=16)
    rows = order.rows_at(0, 0, 103)
    assert set(range(100, 103)) <= set(rows[96:].tolist())  # 25 whole slices, then the short one
    for group in range(6):  # each whole group holds four whole slices
        slices = Counter((rows[group * 16 : group * 16 + 16] // 4).tolist())
        assert len(slices) == 4 and set(slices.values()) == {4}


def test_order_depends_on_seed_and_epoch_only() -> None:
    def rows(seed: int, epoch: int) -> list[int]:
        return Order(1000, seed, 4, 64).rows_at(epoch, 0, 1000).tolist()

    assert rows(1, 0) == rows(1, 0)
    assert rows(1, 0) != rows(2, 0) and rows(1, 0) != rows(1, 1)


def test_a_large_group_is_a_full_shuffle() -> None:
    rows = Order(2048, 0, slice_rows=1, group_rows=2048).rows_at(0, 0, 2048)
    assert abs(np.corrcoef(rows, np.arange(2048))[0, 1]) < 0.08
    assert abs(np.abs(np.diff(rows)).mean() / (2048 / 3) - 1) < 0.06


def plan_of(rows: int = 101, batch: int = 24, micro: int = 4, **more: float) -> Plan:
    sources = [Source("main", rows)] + [Source(name, 37, weight) for name, weight in more.items()]
    return Plan(sources, PlanSettings(4, 16), batch, micro, seed=5)


def test_an_epoch_of_steps_holds_every_row_and_the_last_batch_goes_on_into_the_next() -> None:
    plan = plan_of()
    assert plan.steps_per_epoch == 5 and plan.num_micro_batches == 6  # 101 rows, 24 at a time
    batches = [plan.batch(step) for step in range(5)]
    rows = np.concatenate([batch.row for batch in batches])
    epochs = np.concatenate([batch.epoch for batch in batches])
    assert np.array_equal(np.sort(rows[epochs == 0]), np.arange(101))
    assert (epochs == 1).sum() == 5 * 24 - 101
    again = np.concatenate([plan.batch(step).row for step in range(4, 9)])
    assert np.array_equal(again[101 - 96 : 101 - 96 + 101][:19], rows[101:])


def test_three_epochs_hold_every_row_three_times() -> None:
    plan = plan_of(rows=50, batch=12, micro=3)
    seen = np.concatenate([plan.batch(step).row for step in range(plan.steps_for(3, "main"))])
    assert set(Counter(seen[:150].tolist()).values()) == {3}


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 200),
    micro=st.integers(1, 9),
    count=st.integers(1, 12),
    shape=st.sampled_from(SHAPES),
    seed=st.integers(-5, 2**40),
    step=st.integers(0, 10**6),
)
def test_the_global_batch_is_the_same_for_any_number_of_ranks(
    rows: int, micro: int, count: int, shape: tuple[int, int], seed: int, step: int
) -> None:
    plan = Plan([Source("a", rows)], PlanSettings(*shape), micro * count, micro, seed)
    whole = plan.batch(step)
    for world in [w for w in range(1, count + 1) if count % w == 0]:
        parts = [plan.batch(step, plan.micro_batches_of(rank, world)) for rank in range(world)]
        for name in ("source", "epoch", "row", "position"):
            joined = np.concatenate([getattr(part, name) for part in parts])
            assert np.array_equal(joined, getattr(whole, name))
    assert np.array_equal(whole.position, np.arange(step * micro * count, (step + 1) * micro * count))
    one = plan.micro_batch(step, count - 1)
    assert np.array_equal(one.row, whole.row[-micro:])


@settings(max_examples=80, deadline=None)
@given(
    weights=st.lists(st.floats(0.001, 100), min_size=1, max_size=7),
    micro=st.integers(1, 16),
    start=st.integers(0, 10**12),
)
def test_quotas_add_up_never_go_back_and_stay_near_their_share(weights: list[float], micro: int, start: int) -> None:
    mixture = Mixture(tuple(weights))
    total = sum(Fraction(str(weight)) for weight in weights)
    depth = max(1, (len(weights) - 1).bit_length())
    before = mixture.counts(start)
    for number in range(30):
        position = start + (number + 1) * micro
        counts = mixture.counts(position)
        assert sum(counts) == position
        assert all(now >= then for now, then in zip(counts, before, strict=True))
        for count, weight in zip(counts, weights, strict=True):
            assert abs(count - position * Fraction(str(weight)) / total) <= depth
        before = counts


def test_mixed_sources_each_go_through_their_own_epochs() -> None:
    plan = Plan([Source("a", 30, 2), Source("b", 7, 1)], PlanSettings(2, 8), 12, 4, seed=0)
    batches = [plan.batch(step) for step in range(40)]
    for number, rows in ((0, 30), (1, 7)):
        row = np.concatenate([batch.row[batch.source == number] for batch in batches])
        epoch = np.concatenate([batch.epoch[batch.source == number] for batch in batches])
        for each in range(int(epoch.max())):  # all whole epochs
            assert np.array_equal(np.sort(row[epoch == each]), np.arange(rows))
    shares = [np.concatenate([batch.source for batch in batches]).tolist().count(k) / 480 for k in (0, 1)]
    assert shares == [2 / 3, 1 / 3]


def test_mixed_batches_are_the_same_for_any_ranks_and_positions() -> None:
    plan = Plan([Source("a", 30), Source("b", 7, 0.3), Source("c", 11, 5)], PlanSettings(2, 8), 24, 4, seed=0)
    for step in (0, 3, 10_000):
        whole = plan.batch(step)
        for world in (1, 2, 3, 6):
            rows = [plan.batch(step, plan.micro_batches_of(rank, world)).row for rank in range(world)]
            assert np.array_equal(np.concatenate(rows), whole.row)
        for index in range(6):
            assert np.array_equal(plan.micro_batch(step, index).source, whole.source[index * 4 : index * 4 + 4])


def test_adding_a_source_leaves_the_order_of_the_others() -> None:
    alone = Plan([Source("a", 100)], PlanSettings(4, 16), 8, 8, seed=3)
    mixed = Plan([Source("b", 50), Source("a", 100)], PlanSettings(4, 16), 8, 8, seed=3)
    first = np.concatenate([alone.batch(step).row for step in range(5)])
    rows = np.concatenate([batch.row[batch.source == 1] for batch in map(mixed.batch, range(10))])
    assert np.array_equal(rows[:40], first)


def steps_of(epochs: float, rows: int, batch: int) -> int:
    return Plan([Source("a", rows)], PlanSettings(), batch, batch, seed=0).steps_for(epochs, "a")


@pytest.mark.parametrize(
    ("epochs", "rows", "batch", "steps"),
    [
        (1.0, 100, 10, 10),
        (0.3, 100, 10, 3),
        (2.5, 100, 10, 25),
        (1.0, 101, 10, 11),  # the last batch is filled up from the next epoch
        (0.5, 100, 10, 5),
        (3.0, 7, 100, 1),
        (0.001, 10, 100, 1),
        (1.1, 10, 11, 1),  # 1.1 * 10 is a little more than 11 in floating point
        (32.0, 400_000_000, 32_768, 390_625),
    ],
)
def test_epochs_are_whole_steps_as_written(epochs: float, rows: int, batch: int, steps: int) -> None:
    assert steps_of(epochs, rows, batch) == steps


@given(epochs=st.integers(1, 50), rows=st.integers(1, 10**9), batch=st.integers(1, 10**5))
@settings(deadline=None, derandomize=True, database=None)
def test_every_row_of_all_epochs_is_in_a_step_and_no_step_is_without_one(epochs: int, rows: int, batch: int) -> None:
    steps = steps_of(float(epochs), rows, batch)
    assert (steps - 1) * batch < epochs * rows <= steps * batch


def test_the_length_of_a_run_over_a_mixture_is_that_of_the_source_that_counts() -> None:
    mixed = Plan([Source("a", 100, 3), Source("b", 10, 1)], PlanSettings(), 20, 10, seed=0)
    assert mixed.steps_for(1, "a") == 7 and mixed.steps_for(1, "b") == 2


def test_ranks_that_do_not_divide_are_lowered() -> None:
    plan = plan_of(batch=24, micro=4)  # K = 6
    assert [plan.fitting_world(workers) for workers in (1, 2, 3, 4, 5, 6, 7, 100)] == [1, 2, 3, 3, 3, 6, 6, 6]
    with pytest.raises(ValueError, match="cannot share 6"):
        plan.micro_batches_of(0, 4)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="whole number of micro-batches"):
        plan_of(batch=10, micro=4)
    with pytest.raises(UserError, match="whole number of slices"):
        Plan([Source("a", 5)], PlanSettings(4, 10), 4, 4, 0)
    with pytest.raises(UserError, match="no rows"):
        Plan([Source("a", 0)], PlanSettings(), 4, 4, 0)
    with pytest.raises(UserError, match="above 0"):
        Plan([Source("a", 5), Source("b", 5, 0.0)], PlanSettings(), 4, 4, 0)
    with pytest.raises(UserError, match="different names"):
        Plan([Source("a", 5), Source("a", 5)], PlanSettings(), 4, 4, 0)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 300), size=st.integers(1, 20), ranks=st.integers(1, 9))
def test_evaluation_sees_every_row_once_in_order(rows: int, size: int, ranks: int) -> None:
    batches = evaluation_batches(rows, size, ranks)
    assert batches.shape[0] == ranks and batches.shape[2] == size
    flat = batches.ravel()
    assert flat[flat >= 0].tolist() == list(range(rows)) and (flat[rows:] == -1).all()
    assert flat.size - rows < size * ranks


def test_a_rows_generator_depends_on_what_the_row_is() -> None:
    base = (1, 2, "main", "a/00000.tar", 7, 0)
    first = row_generator(*base).random(3).tolist()
    assert row_generator(*base).random(3).tolist() == first == GENERATED
    others = [(9, *base[1:]), (1, 9, *base[2:]), (1, 2, "b", *base[3:]), (*base[:3], "b", 7, 0)]
    others += [(*base[:4], 8, 0), (*base[:5], 1), (1, 2, "main\x1fa", "00000.tar", 7, 0)]
    assert len({row_generator(*other).random() for other in others} | {first[0]}) == len(others) + 1


def test_the_order_never_changes() -> None:
    """A checkpoint stores a position only: what stands at it must be the same in every later version."""
    plan = Plan([Source("a", 1000, 2), Source("b", 10**10, 1)], PlanSettings(4, 64), 8, 8, seed=1)
    assert plan.batch(1234).row.tolist() == ORDERED


GENERATED: list[float] = [0.8760954878430915, 0.8994857870965918, 0.6185380223121691]
ORDERED: list[int] = [544, 891, 749, 428, 413, 750, 3657075032, 8349874843]
