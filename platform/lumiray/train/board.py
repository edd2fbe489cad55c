"""The board between a driver and its workers: a tiny actor that both can reach.

The driver gets signals and owns the terminal; the workers act on the one and have something to say on the
other.  A worker looks at the board between two steps; the driver shows what is new on it.  A user's mistake
found in a worker is noted here too, so that a restarted group does not repeat it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray

from lumiray.train.cluster import NO_PROCESS, PROCESS_S

POLL_S = 0.3


@ray.remote(num_cpus=0)
class Board:
    """Whether to stop, why the run cannot go on, lines to show, and one answer."""

    def __init__(self) -> None:
        self._stop = False
        self._failure: tuple[str, int] | None = None
        self._lines: list[tuple[str, bool]] = []
        self._answer: Any = None

    def stop(self) -> None:
        """Ask all workers to checkpoint and end."""
        self._stop = True

    def fail(self, message: str, exit_code: int) -> None:
        """Record a mistake that no retry mends; the first one counts."""
        self._failure = self._failure or (message, exit_code)

    def state(self) -> tuple[bool, tuple[str, int] | None]:
        """(stop asked, failure)."""
        return self._stop, self._failure

    def show(self, text: str, live: bool) -> None:
        """Put up a line; a live one replaces the live one before it."""
        self._lines.append((text, live))

    def news(self) -> list[tuple[str, bool]]:
        """Take down what was put up since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def answer(self, value: Any) -> None:
        """Hand a value to the driver."""
        self._answer = value

    def answered(self) -> Any:
        """The value that was handed over, or None."""
        return self._answer


class StopWatch:
    """A worker's view of the board: asked without waiting, one answer behind at most."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._pending = board.state.remote()
        self._stop = False

    def stop_requested(self) -> bool:
        """The newest answer that has arrived; never blocks."""
        ready, _ = ray.wait([self._pending], timeout=0)
        if ready:
            self._stop = self._stop or ray.get(ready[0])[0]
            self._pending = self._board.state.remote()
        return self._stop


@contextmanager
def shown(board: Any) -> Iterator[None]:
    """While inside, print what workers put on the board: one live line in a terminal, plain lines elsewhere."""
    ended = threading.Event()

    def follow() -> None:
        with suppress(ray.exceptions.RayError):  # a dead board ends the run elsewhere, with a message
            if not _answers(board) and not ended.is_set():
                print(f"note: {NO_PROCESS}", flush=True)
            while not ended.wait(POLL_S):
                _print(ray.get(board.news.remote()))

    thread = threading.Thread(target=follow, name="board", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(ray.exceptions.RayError):
            _print(ray.get(board.news.remote()))
        if sys.stdout.isatty():
            print(flush=True)


def _answers(board: Any) -> bool:
    """Whether the board has come up; it is the first process that a run asks the cluster for."""
    return bool(ray.wait([board.state.remote()], timeout=PROCESS_S)[0])


def _print(lines: list[tuple[str, bool]]) -> None:
    terminal = sys.stdout.isatty()
    for text, live in lines:
        start = "\r\033[K" if terminal else ""
        print(start + text, end="" if live and terminal else "\n", flush=True)
