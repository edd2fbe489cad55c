"""Work on many shards with the cluster's help: scanning those without an index, writing new ones, by Ray tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from lumiray.data.filter import Filter
from lumiray.data.index import ShardSet
from lumiray.data.listing import Listed
from lumiray.data.slice_cache import SliceCache
from lumiray.errors import UserError

_CORES = 0.5  # of a task
_DONE_HERE = 512 << 20  # bytes of shards
_STOPPED_S = 60.0


def open_shards(
    listed: Sequence[Listed],
    index_folder: str | None = None,
    keep: Filter | None = None,
    cache: SliceCache | None = None,
    whole: bool = False,
) -> ShardSet:
    """Shards that `listing.find` gave, with their index built where it is missing.  Ray must be up.

    Args:
        keep, cache, whole: as `ShardSet.open` has them.

    Raises:
        UserError: a shard is missing, unreadable or changed.
    """
    return ShardSet.open(listed, index_folder, scan_map=ray_map, keep=keep, cache=cache, whole=whole)


def ray_map(
    function: Callable[[Any], Any], arguments: Iterable[Any], start: Callable[[], None] | None = None
) -> Iterator[Any]:
    """`map` over shards by Ray tasks: results in order, a bounded number of tasks ahead.

    A few small shards are worked on here: that takes less time than starting a task.

    Args:
        arguments: each with its bytes as `size`; taken as they are needed.
        start: brings Ray up, called where there will be tasks; Ray must be up without it.

    Raises:
        UserError: as the function raises it, without the words that Ray adds.
    """
    shards = iter(arguments)
    few, size = [], 0
    for shard in shards:
        few.append(shard)
        size += shard.size
        if size >= _DONE_HERE:
            break
    else:
        yield from map(function, few)
        return
    import ray

    if start is not None:
        start()
    task = ray.remote(num_cpus=_CORES, max_retries=3)(lambda shard: function(shard))
    most = _at_once()
    waiting: deque[Any] = deque()
    try:
        for shard in chain(few, shards):
            waiting.append(task.remote(shard))
            if len(waiting) >= most:
                yield ray.get(waiting[0])
                waiting.popleft()
        while waiting:
            yield ray.get(waiting[0])
            waiting.popleft()
    except Exception as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, UserError):
            raise cause from None
        raise
    finally:
        # None of them may still write when the caller tries again.  They are not cancelled: Ray 2.60 aborts the whole
        # process where a task that is told to stop has just ended.
        if waiting:
            ray.wait(list(waiting), num_returns=len(waiting), timeout=_STOPPED_S)


def _at_once() -> int:
    """Tasks submitted ahead of their results: those that run, and one more for each."""
    import ray

    return max(2, int(2 * ray.cluster_resources().get("CPU", 1) / _CORES))
