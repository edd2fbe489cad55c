"""Many requests to S3 at a time, where a disk is asked for one thing after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_REQUESTS = 16  # of one process
_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")


def map_requests(function: Callable[[_Asked], _Answer], items: Iterable[_Asked], remote: bool) -> Iterator[_Answer]:
    """`map` in order; several threads wait for the answers where they come from far away.

    Args:
        items: so few that all answers fit into memory.
        remote: whether any of them lies on S3.
    """
    if not remote:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(_REQUESTS) as pool:
        yield from pool.map(function, items)
