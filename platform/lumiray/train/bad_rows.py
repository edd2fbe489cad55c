"""Rows that could not be used: said with their address, counted over all ranks, and too many of them stop a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lumiray.data.feed import Delivery
from lumiray.data.stream import EVALUATE
from lumiray.errors import RunFailure

FEWEST = 1000  # rows that the share is taken of at the least: one bad row in the first batch is not yet many


def described(bad: dict[str, Any]) -> str:
    """Where a row lies, and why it could not be used."""
    return f"{bad['shard']} row {bad['row']} (key {bad['key']!r}): {bad['reason']}"


def report(delivery: Delivery, say: Callable[[str], object]) -> int:
    """Say which rows of a delivery could not be used.

    Returns:
        how many were replaced: none of an evaluation, which leaves them out.
    """
    what = "left out of the evaluation" if delivery.kind == EVALUATE else "replaced"
    for bad in delivery.bad:
        say(f"{what}: {described(bad)}")
    return 0 if delivery.kind == EVALUATE else len(delivery.bad)


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
