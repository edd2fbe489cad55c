"""Notices of hosts that are about to be taken away, given to ranks of the loop's tests at chosen steps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lumiray.data.entries import Entry
from lumiray.train.notice import Notice


class Told(Notice):
    """Of a host whose metadata service announces its end before a step (counted from 0)."""

    def __init__(self, step: int | None) -> None:
        super().__init__(None, lambda: False, asks=False)
        self._step, self._asked_for = step, -1

    def heard(self) -> bool:
        self._asked_for += 1
        return self._step is not None and self._asked_for >= self._step


class Drained(Notice):
    """Of a node that Ray drains before a step; all ranks ask together."""

    def __init__(self, step: int, asks: bool) -> None:
        super().__init__(None, lambda: self._steps > step, asks)
        self._steps = 0

    def heard(self) -> bool:
        self._steps += 1
        return False

    def due(self) -> bool:
        return self._asks


COMES_BACK = threading.Event()  # of the rows of a starved rank


class Starved(Notice):
    """Told when three steps are finished; once their checkpoint is there, the rows of the fourth come on rank 0."""

    def __init__(self, rank: int, url: str) -> None:
        super().__init__(None, lambda: False, asks=False)
        self._url = url

    def heard(self) -> bool:
        if (Path(self._url) / "checkpoints" / "step-00000003" / "manifest.json").exists():
            COMES_BACK.set()
        logged = Path(self._url) / "metrics.jsonl"
        return logged.exists() and '"step": 3,' in logged.read_text()


def starving(step: int) -> Callable[[int, Entry, dict[str, np.ndarray]], None]:
    """The rows of a step do not come on rank 0 before a checkpoint was written."""

    def spoil(rank: int, entry: Entry, arrays: dict[str, np.ndarray]) -> None:
        if rank == 0 and entry.step == step and not COMES_BACK.wait(60):
            raise RuntimeError("no checkpoint was written while the rows did not come")

    return spoil
