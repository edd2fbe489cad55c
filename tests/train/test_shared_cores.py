"""A worker on CPUs gives cores to its decoders, one by one, as long as it waits for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from lumiray.train import shared_cores
from lumiray.train.shared_cores import WINDOW, SharedCores


class Clock:
    """Time that passes as the test says."""

    def __init__(self) -> None:
        self.now = self.waited = 0.0

    def perf_counter(self) -> float:
        return self.now

    def window(self, cores: SharedCores, waited: float) -> None:
        """Steps of a second each, of which training waits a share."""
        for _ in range(WINDOW):
            self.now += 1.0
            self.waited += waited
            cores.after_step(self.waited)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock, threads = Clock(), torch.get_num_threads()
    monkeypatch.setattr(shared_cores, "time", clock)
    yield clock
    torch.set_num_threads(threads)


def test_a_core_goes_to_the_decoders_for_each_window_that_waited(clock: Clock) -> None:
    torch.set_num_threads(3)
    cores = SharedCores(3)
    clock.window(cores, 0.02)
    assert torch.get_num_threads() == 3
    clock.window(cores, 0.3)
    assert torch.get_num_threads() == cores.threads == 2
    clock.window(cores, 0.02)
    assert torch.get_num_threads() == 2
    clock.window(cores, 0.3)
    clock.window(cores, 0.3)
    assert torch.get_num_threads() == cores.threads == 1  # the last one stays


def test_waiting_before_a_restart_does_not_count(clock: Clock) -> None:
    torch.set_num_threads(2)
    cores = SharedCores(2)
    clock.waited, clock.now = 50.0, 60.0  # an evaluation, or the wait for the first rows
    cores.restart(clock.waited)
    clock.window(cores, 0.0)
    assert torch.get_num_threads() == 2
