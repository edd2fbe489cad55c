"""The rates that loader.py reads from the times at which batches were there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from loader import rates
from loader_sides import SOURCES, Work

sys.path.remove(SOURCES[-1])  # its system is no one's but the benchmark's


def work(processes: int) -> Work:
    return Work(Path("shards"), 0, 256, processes)


def test_a_backlog_at_the_beginning_and_a_slow_end_are_left_out_of_the_steady_rate() -> None:
    begin = 1000.0
    backlog = [1010.0] * 10  # there at once when the start-up is over
    middle = [1010.0 + 0.5 * number for number in range(1, 27)]
    end = [middle[-1] + 3.0 * number for number in range(1, 5)]
    found = rates(backlog + middle + end, begin, work(2))
    assert found.steady == pytest.approx(256 / 0.5)
    assert found.total == pytest.approx(256 * 40 / (end[-1] - begin))


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_batches_that_come_in_rounds_are_counted_by_rounds(processes: int) -> None:
    taken = [1010.0 + number // processes for number in range(41)]  # all workers' at once, every second
    assert rates(taken, 1000.0, work(processes)).steady == pytest.approx(256 * processes)


def test_a_smoke_run_of_three_batches_has_rates() -> None:
    found = rates([1001.0, 1002.0, 1003.0], 1000.0, work(4))
    assert (found.steady, found.total) == (256, 256)
