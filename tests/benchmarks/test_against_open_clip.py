from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from against_open_clip import steady_rate


def rows(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"step_s": step_s, "data_wait_share": waited} for step_s, waited in pairs]


def test_what_was_decoded_before_the_first_step_is_not_in_the_rate() -> None:
    backlog, bound, tail = [(0.1, 0.0)] * 8, [(0.5, 0.6)] * 12, [(0.1, 0.0)] * 5
    rate, waited = steady_rate(rows(*backlog, *bound, *tail), batch=100)
    assert waited
    assert rate == pytest.approx(100 / 0.5)


def test_fast_steps_between_waiting_ones_count() -> None:
    rate, waited = steady_rate(rows(*[(0.9, 0.8), (0.1, 0.0)] * 10), batch=10)
    assert waited
    assert rate == pytest.approx(10 / 0.5, rel=0.06)  # from the first wait to the last: one fast step more or less


def test_a_job_that_never_waits_is_told_apart_and_counted_whole() -> None:
    rate, waited = steady_rate(rows(*[(0.2, 0.0)] * 30, (1.0, 0.9)), batch=10)
    assert not waited
    assert rate == pytest.approx(310 / 7.0)
