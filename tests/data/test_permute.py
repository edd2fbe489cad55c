"""The keyed permutation is a bijection for every size, and looks like a shuffle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumiray.data.permute import key_of, numbered_keys, permute


def test_every_small_size_is_permuted() -> None:
    for n in [*range(1, 140), 255, 256, 257, 1023, 4096, 4097]:
        for key in (0, 1, 2**64 - 1):
            assert np.array_equal(np.sort(permute(np.arange(n), n, key)), np.arange(n)), (n, key)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 1 << 62), key=st.integers(0, 2**64 - 1), seed=st.integers(0, 1000))
def test_far_indices_stay_inside_and_apart(n: int, key: int, seed: int) -> None:
    indices = np.unique(np.random.default_rng(seed).integers(0, n, 200))
    places = permute(indices, n, key)
    assert places.dtype == np.int64 and (places >= 0).all() and (places < n).all()
    assert len(np.unique(places)) == len(indices)
    one_by_one = [int(permute(np.array([index]), n, key)[0]) for index in indices[:5]]
    assert one_by_one == places[:5].tolist()


def test_many_keys_at_once_give_what_each_gives() -> None:
    keys = numbered_keys(key_of("group", 3), np.arange(7))
    indices = np.arange(7) * 11 % 50
    together = permute(indices, 50, keys)
    apart = [int(permute(indices[i : i + 1], 50, int(keys[i]))[0]) for i in range(7)]
    assert together.tolist() == apart


def test_places_are_uniform_for_small_and_odd_sizes() -> None:
    """Chi-square of index -> place over many keys; 5 sigma."""
    keys = numbered_keys(0, np.arange(4000))
    for n in (2, 3, 5, 8, 17, 100):
        expected = len(keys) / n
        counts = [np.bincount(permute(np.full(len(keys), index), n, keys), minlength=n) for index in range(n)]
        statistic = ((np.array(counts) - expected) ** 2 / expected).sum()
        freedom = n * (n - 1)  # rows of a permutation matrix are not independent
        assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom) + 5, (n, statistic, freedom)


def test_neighbours_part_and_epochs_are_unrelated() -> None:
    n = 100_003
    first, second = (permute(np.arange(n), n, key_of("slice", 0, epoch)) for epoch in (0, 1))
    steps = np.abs(np.diff(first))
    assert abs(steps.mean() / (n / 3) - 1) < 0.02  # the mean distance of two random places
    assert (steps == 1).sum() < 12  # two are expected
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02
    assert (first == second).sum() < 8  # one is expected
    assert abs(np.corrcoef(first, np.arange(n))[0, 1]) < 0.02


def test_the_permutation_never_changes() -> None:
    """A checkpoint made today must mean the same rows in every later version."""
    assert permute(np.arange(10), 10, 42).tolist() == PERMUTED_10
    assert permute(np.array([0, 1, 123_456_789_012]), 10**12, key_of("order", 1, "a")).tolist() == PERMUTED_FAR


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[0, 10\)"):
        permute(np.array([10]), 10, 0)
    with pytest.raises(ValueError, match=r"\[0, 10\)"):
        permute(np.array([-1]), 10, 0)
    with pytest.raises(ValueError, match="size"):
        permute(np.array([0]), 0, 0)


PERMUTED_10: list[int] = [2, 5, 7, 3, 4, 6, 0, 8, 9, 1]
PERMUTED_FAR: list[int] = [379974744908, 743570671771, 962119986084]
