"""Threads of a worker that shares its cores with the decoders of its rows."""

from __future__ import annotations

import time

import torch

WINDOW = 16  # steps between two looks
WAITED = 0.1  # share of their time from which training is held up by its data


class SharedCores:
    """Leaves a core to the decoders each time training had to wait for them.

    Threads of one operation wait for each other, and while they do they keep their cores busy.  Where rows are late
    these cores would better decode: a small model on two cores trains a fifth faster with one thread than with two.

    Args:
        threads: to begin with, at least 1; they are only ever lowered.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.restart(0.0)

    def restart(self, waited_s: float) -> None:
        """Begin a new window, at a time when training has waited `waited_s` seconds in all."""
        self._steps, self._since, self._waited_s = 0, time.perf_counter(), waited_s

    def after_step(self, waited_s: float) -> None:
        """Look back after each `WINDOW` steps.

        Args:
            waited_s: seconds that training has waited for data, in all.
        """
        self._steps += 1
        if self.threads == 1 or self._steps < WINDOW:
            return
        if waited_s - self._waited_s > WAITED * (time.perf_counter() - self._since):
            self.threads -= 1
            torch.set_num_threads(self.threads)
        self.restart(waited_s)
