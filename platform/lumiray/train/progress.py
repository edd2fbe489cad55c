"""What a person sees of a run: one live line in a terminal, plain lines elsewhere, and every sink behind it.

The lines are shown by the driver, which owns the terminal; the rows go to the sinks from here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from lumiray.config import LogConfig
from lumiray.storage import exists, join
from lumiray.train.flops import model_flops_utilisation
from lumiray.train.sinks import BAD_ROWS, LinesFile, Sink, open_sinks


class Progress:
    """Progress of one run, on rank 0.

    Args:
        output: the run's folder.
        show: shows a text; the flag says that the next such text replaces it.
        first_step: finished steps of a resumed run.
        flops_per_sample: of forward and backward, if the system knows; with a known device it gives utilisation.
    """

    def __init__(
        self,
        output: str,
        show: Callable[[str, bool], object],
        *,
        total_steps: int,
        first_step: int,
        log: LogConfig,
        flops_per_sample: float | None = None,
        num_devices: int = 1,
    ) -> None:
        self._total, self._first = total_steps, first_step
        self._flops, self._devices = flops_per_sample, num_devices
        self._begin = time.time()
        self._sinks = open_sinks(output, first_step, log)
        self._output = output
        there = exists(join(output, BAD_ROWS))  # with lines that may be void
        self._bad_rows = LinesFile(output, first_step, BAD_ROWS) if there else None
        self._show = show

    def also_to(self, sink: Sink) -> None:
        """Write to a further sink from now on; it is closed with the others."""
        self._sinks.append(sink)

    def step(self, step: int, values: dict[str, float]) -> None:
        """Log one row of training numbers and show the line."""
        share = model_flops_utilisation(self._flops, values["samples_per_s"], self._devices)
        if share is not None:
            values = values | {"mfu": share}
        self._write({"step": step, "kind": "train", "time_s": self._elapsed()} | values)
        left = values["step_s"] * (self._total - step)
        text = (
            f"step {step}/{self._total}  loss {values['loss']:.4f}  {values['samples_per_s']:.1f}/s  "
            f"waiting {100 * values['data_wait_share']:.0f}%  {values['memory_gb']:.1f} GB  {duration(left)} left"
        )
        if share is not None:
            text += f"  MFU {100 * share:.0f}%"
        self._show(text, True)

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Log one evaluation."""
        self._write({"step": step, "kind": "evaluation", "time_s": self._elapsed()} | metrics)
        chosen = {name: value for name, value in metrics.items() if "R@" in name or "top" in name} or metrics
        shown = "  ".join(f"{name} {value:.4g}" for name, value in chosen.items())
        self.message(f"evaluation at step {step}: {shown}")

    def replaced(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        """List rows that could not be used: shard, row, key, reason, and the position that another row took."""
        self._bad_rows = self._bad_rows or LinesFile(self._output, self._first, BAD_ROWS)
        for row in rows:
            self._bad_rows.write({"step": step, "kind": "replaced"} | row)

    def started(self, marks: dict[str, float]) -> None:
        """Log when the parts of the start were passed, in seconds since the command began."""
        self._write({"step": self._first, "kind": "start", "time_s": self._elapsed()} | marks)

    def message(self, text: str) -> None:
        """One line that stays."""
        self._show(text, False)

    def close(self) -> None:
        """Close every sink."""
        for sink in (*self._sinks, *([self._bad_rows] if self._bad_rows else [])):
            sink.close()

    def _elapsed(self) -> float:
        return round(time.time() - self._begin, 3)

    def _write(self, row: dict[str, Any]) -> None:
        for sink in self._sinks:
            sink.write(row)


def duration(seconds: float) -> str:
    """Seconds as people say them: 45s, 12m 05s, 3h 20m, 2d 04h."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"
