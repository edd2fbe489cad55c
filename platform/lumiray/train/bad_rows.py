"""Rows that could not be used: said with their address, counted over all ranks, and too many of them stop a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lumiray.data.feed import Delivery
from lumiray.errors import RunFailure
from lumiray.evaluate.collect import gathered_objects, sum_over_ranks
from lumiray.system import Batch

NAMED = 10  # rows of one evaluation that a rank names
FEWEST = 1000  # rows that the share is taken of at the least: one bad row in the first batch is not yet many


def described(bad: dict[str, Any]) -> str:
    """Where a row lies, and why it could not be used."""
    return f"{bad['shard']} row {bad['row']} (key {bad['key']!r}): {bad['reason']}"


def report(delivery: Delivery, say: Callable[[str], object]) -> int:
    """Say which training rows of a delivery were replaced, and return how many."""
    for bad in delivery.bad:
        say(f"replaced: {described(bad)}")
    return len(delivery.bad)


def of_all_ranks(own: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Bad rows of every rank; every rank must call it."""
    return [row for rows in gathered_objects(own) for row in rows]


class LeftOut:
    """Rows of one evaluation that cannot be used: it goes on without them, and its figures say how many there were.

    Args:
        say: shows one line; a rank names its first `NAMED` rows.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._count = 0

    def tensors(self, delivery: Delivery) -> Batch:
        """A batch as it is, its unusable rows noted; they are masked by `valid`."""
        for bad in delivery.bad:
            self._count += 1
            if self._count <= NAMED:
                self._say(f"left out of the evaluation: {described(bad)}")
        return delivery.tensors

    def figures(self) -> dict[str, float]:
        """`unusable_rows` over all ranks, where there are any; every rank must call it."""
        if self._count > NAMED:
            self._say(f"left out of the evaluation: {self._count - NAMED} more")
        total = sum_over_ranks(self._count)
        return {"unusable_rows": float(total)} if total else {}


def too_many(replaced: int, seen: int, limit: float, delivery: Delivery | None) -> Exception | None:
    """Why a run must not go on, if it must not; a `RunFailure` on ranks that can name a row.

    Args:
        replaced: rows of the whole run, over all ranks; seen: rows that were delivered in all.
        limit: share of rows that may be replaced.
        delivery: this rank's newest.
    """
    seen = max(FEWEST, seen)
    if replaced <= limit * seen:
        return None
    if not (delivery and delivery.bad):
        return RuntimeError("another worker met more rows than allowed that cannot be used")
    return RunFailure(
        f"{replaced} of {seen} rows could not be used, more than --data.bad-rows-limit {limit:g} allows; the last "
        f"one: {described(delivery.bad[-1])}. Mend the shards, or raise the limit."
    )
