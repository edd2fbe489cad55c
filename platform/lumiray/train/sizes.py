"""How a run's rows are cut: global batch, micro-batches, workers.  Pure functions of options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lumiray.config import RunConfig
from lumiray.errors import UserError
from lumiray.system import Stage


@dataclass(frozen=True)
class Sizes:
    """A global batch of K micro-batches of fixed size, over W workers; W divides K."""

    global_batch_size: int
    micro_batch_size: int
    workers: int

    @property
    def num_micro_batches(self) -> int:
        """K: forwards of one step over all workers."""
        return self.global_batch_size // self.micro_batch_size


def resolve_sizes(run: RunConfig, stage: Stage, stored: Mapping[str, Any] | None = None) -> Sizes:
    """Batch sizes and workers from the options, the run being resumed, and the published recipe.

    A number of workers that does not divide the micro-batches is lowered to the next that does.

    Args:
        stored: sizes of the run that is continued: they win over derived ones, so that another number of
            workers sees the same micro-batches.

    Raises:
        UserError: no batch size is known, or the micro-batch does not divide it.
    """
    stored = stored or {}
    batch = run.global_batch_size or stored.get("global_batch_size") or stage.global_batch_size
    if batch is None:
        raise UserError("--global-batch-size is missing: the published recipe names none.")
    micro = run.micro_batch_size or stored.get("micro_batch_size")
    if micro is None and run.global_batch_size is None:
        micro = stage.micro_batch_size
    if micro is None:
        micro = batch // _largest_divisor(batch, run.workers)
    if batch % micro:
        fitting = sorted({max(micro, batch - batch % micro), batch + micro - batch % micro})
        raise UserError(
            f"--global-batch-size {batch} is not a multiple of --micro-batch-size {micro}; "
            f"{' or '.join(map(str, fitting))} would be."
        )
    return Sizes(batch, micro, _largest_divisor(batch // micro, run.workers))


def _largest_divisor(number: int, most: int) -> int:
    """The largest divisor of `number` that is at most `most`."""
    return next(one for one in range(min(number, most), 0, -1) if number % one == 0)
