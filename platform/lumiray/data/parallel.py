"""Opening shards with the cluster's help: shards without an index are scanned in parallel by Ray tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lumiray.data.index import ShardSet
from lumiray.data.listing import expand

_AT_ONCE = 1024  # tasks submitted ahead of their results
_SCANNED_HERE = 512 << 20  # bytes of shards


def open_shards(patterns: str, index_folder: str | None = None) -> ShardSet:
    """All shards that the patterns name, with their index built where it is missing.  Ray must be up.

    Raises:
        UserError: nothing matches, or a shard is missing, unreadable or changed.
    """
    return ShardSet.open(expand(patterns), index_folder, scan_map=ray_map)


def ray_map(function: Callable[[Any], Any], arguments: Iterable[Any]) -> Iterator[Any]:
    """`map` over shards by Ray tasks: results in order, a bounded number of tasks ahead.

    A few small shards are scanned here: that takes less time than starting a task.
    """
    shards = list(arguments)
    if sum(shard.size for shard in shards) < _SCANNED_HERE:
        yield from map(function, shards)
        return
    import ray

    task = ray.remote(num_cpus=0.5, max_retries=3)(lambda shard: function(shard))
    waiting: deque[Any] = deque()
    for shard in shards:
        waiting.append(task.remote(shard))
        if len(waiting) >= _AT_ONCE:
            yield ray.get(waiting.popleft())
    while waiting:
        yield ray.get(waiting.popleft())
