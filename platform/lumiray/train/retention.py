"""Which checkpoints stay: the newest, the best, and those that somebody still needs."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lumiray.storage import join, list_names, remove_tree
from lumiray.train.manifest import NAME

KEEP = "keep"  # a file of this name in a checkpoint's folder holds it, whoever put it there


def superfluous(metrics: Mapping[int, Mapping[str, float]], keep: int, best: tuple[str, str] | None) -> list[int]:
    """Steps of complete checkpoints that may go.

    Args:
        metrics: step -> metrics of that checkpoint.
        keep: newest checkpoints that stay, at least 1.
        best: (metric, "max" or "min") whose best checkpoint stays besides; of equal ones the first, for later
            ones may carry along the metrics of an evaluation before them.
    """
    stay = set(sorted(metrics)[-max(keep, 1) :])
    if best:
        name, mode = best
        sign = 1 if mode == "max" else -1
        scored = [(sign * one[name], -step) for step, one in metrics.items() if math.isfinite(one.get(name, math.nan))]
        stay |= {-max(scored)[1]} if scored else set()
    return sorted(set(metrics) - stay)


def remove_checkpoint(url: str) -> bool:
    """Remove a checkpoint's folder unless it is held; its manifest first, so that no half one is ever seen.

    Returns:
        whether it was removed.
    """
    if KEEP in list_names(url):
        return False
    remove_tree(join(url, NAME))
    remove_tree(url)
    return True
