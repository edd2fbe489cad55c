"""A run's numbers on Ray's Prometheus endpoint, under Ray's own prefix: `ray_lumiray_loss` and so on.

Every node's agent serves them; `cluster/grafana.json` draws them.  Told by the worker of rank 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

GAUGES = {  # name -> (column of a logged row, description)
    "lumiray_step": ("step", "Finished optimizer steps."),
    "lumiray_total_steps": ("total_steps", "Optimizer steps of the whole run."),
    "lumiray_step_seconds": ("step_s", "Seconds per optimizer step, without evaluations."),
    "lumiray_samples_per_second": ("samples_per_s", "Samples per second over all workers."),
    "lumiray_data_wait_share": ("data_wait_share", "Share of the time in which the next batch was not there yet."),
    "lumiray_loss": ("loss", "Loss of the last logged step."),
    "lumiray_learning_rate": ("lr", "Learning rate of the last logged step."),
    "lumiray_grad_norm": ("grad_norm", "Norm of the gradients before they are cut."),
    "lumiray_memory_gigabytes": ("memory_gb", "Peak memory of the worker of rank 0."),
    "lumiray_checkpoint_age_seconds": ("checkpoint_age_s", "Seconds since the last complete checkpoint."),
    "lumiray_replaced_rows": ("replaced_rows", "Rows that could not be used, in whose place others came."),
    "lumiray_skipped_updates": ("skipped_updates", "Updates left out because something was not finite."),
    "lumiray_restarts": ("restarts", "Times that the workers of this run were started again."),
    "lumiray_slowest_rank": ("slowest_rank", "Rank that the others wait for at the beginning of steps."),
    "lumiray_slowest_rank_late_seconds": ("slowest_rank_late_s", "By how much that rank is late, per step."),
}
TAGS = ("run", "system", "stage")


class Gauges:
    """A sink of logged rows.

    Args:
        tags: values of `TAGS`.
        constant: columns that are the same in all rows.
        checkpoint_age_s: seconds since the last complete checkpoint, None before the first.
    """

    def __init__(
        self, tags: dict[str, str], constant: Mapping[str, float], checkpoint_age_s: Callable[[], float | None]
    ) -> None:
        from ray.util.metrics import Gauge

        self._constant, self._age = constant, checkpoint_age_s
        self._gauges = {}
        for name, (column, description) in GAUGES.items():
            gauge = Gauge(name, description, TAGS)
            gauge.set_default_tags(tags)
            self._gauges[column] = gauge

    def write(self, row: dict[str, Any]) -> None:
        """Set what a row of training has, and leave the others as they are."""
        if row["kind"] != "train":
            return
        age = self._age()
        values: dict[str, Any] = {"replaced_rows": 0.0, "skipped_updates": 0.0, **self._constant, **row}
        values |= {} if age is None else {"checkpoint_age_s": age}
        for column, gauge in self._gauges.items():
            value = values.get(column)
            if isinstance(value, int | float) and math.isfinite(value):
                gauge.set(float(value))

    def close(self) -> None:
        """Tell nothing more; Ray forgets the numbers of a worker that has ended."""
        self._gauges.clear()
