"""How rows are cut: the micro-batches of a step are the same on any number of workers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumiray.config import RunConfig
from lumiray.errors import UserError
from lumiray.system import Record, Stage
from lumiray.train.sizes import Sizes, resolve_sizes

OPEN = Stage("a", Record.PAIR, ())
PUBLISHED = Stage("a", Record.PAIR, (), global_batch_size=48, micro_batch_size=8)


@pytest.mark.parametrize("workers", range(1, 50))
def test_any_number_of_workers_gets_the_same_micro_batches_and_no_more_workers_than_divide_them(workers: int) -> None:
    found = resolve_sizes(RunConfig(global_batch_size=96, micro_batch_size=8, workers=workers), OPEN)
    assert (found.global_batch_size, found.micro_batch_size, found.num_micro_batches) == (96, 8, 12)
    assert found.workers == max(one for one in (1, 2, 3, 4, 6, 12) if one <= workers)


@given(batch=st.integers(1, 300), before=st.integers(1, 20), after=st.integers(1, 20))
@settings(deadline=None, derandomize=True, database=None)
def test_a_run_goes_on_with_its_micro_batches_on_another_number_of_workers(batch: int, before: int, after: int) -> None:
    begun = resolve_sizes(RunConfig(global_batch_size=batch, workers=before), OPEN)
    resumed = resolve_sizes(RunConfig(global_batch_size=batch, workers=after), OPEN, vars(begun))
    assert resumed.micro_batch_size == begun.micro_batch_size
    assert begun.num_micro_batches * begun.micro_batch_size == batch
    for one, workers in ((begun, before), (resumed, after)):
        assert one.num_micro_batches % one.workers == 0
        assert 1 <= one.workers <= workers
        assert all(one.num_micro_batches % more for more in range(one.workers + 1, workers + 1))


@pytest.mark.parametrize("workers", [1, 2, 5, 7])
def test_without_a_published_size_each_worker_makes_one_forward_of_a_new_run(workers: int) -> None:
    found = resolve_sizes(RunConfig(global_batch_size=60, workers=workers), OPEN)
    assert found.num_micro_batches == found.workers == {1: 1, 2: 2, 5: 5, 7: 6}[workers]


def test_the_published_sizes_hold_until_another_global_batch_is_asked_for() -> None:
    assert resolve_sizes(RunConfig(workers=2), PUBLISHED) == Sizes(48, 8, 2)
    assert resolve_sizes(RunConfig(workers=2, micro_batch_size=4), PUBLISHED) == Sizes(48, 4, 2)
    assert resolve_sizes(RunConfig(workers=2, global_batch_size=20), PUBLISHED) == Sizes(20, 10, 2)
    stored = {"global_batch_size": 24, "micro_batch_size": 6, "workers": 1}
    assert resolve_sizes(RunConfig(workers=2), PUBLISHED, stored) == Sizes(24, 6, 2)


def test_sizes_that_do_not_fit_are_refused_with_the_next_ones_that_do() -> None:
    with pytest.raises(UserError, match="--global-batch-size 100 is not a multiple of --micro-batch-size 7; 98 or 105"):
        resolve_sizes(RunConfig(global_batch_size=100, micro_batch_size=7), OPEN)
    with pytest.raises(UserError, match="--global-batch-size 5 is not a multiple of --micro-batch-size 8; 8 would be"):
        resolve_sizes(RunConfig(global_batch_size=5, micro_batch_size=8), OPEN)
    with pytest.raises(UserError, match="--global-batch-size is missing"):
        resolve_sizes(RunConfig(), OPEN)
