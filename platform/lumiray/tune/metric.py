"""What a study looks for: one figure of the evaluation, or several that are weighed against each other.

psnr                  the highest
-loss                 the lowest
psnr,samples_per_s    both; no trial need be best at both, so there is a front of best ones
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lumiray.errors import UserError


@dataclass(frozen=True)
class Metric:
    """A figure and which of its values is best."""

    name: str
    lowest: bool = False

    @property
    def mode(self) -> Literal["max", "min"]:
        """Which value is best, as Ray Tune says it."""
        return "min" if self.lowest else "max"

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """Which value is best, as Optuna says it."""
        return "minimize" if self.lowest else "maximize"

    @property
    def sign(self) -> int:
        """What a value is to be multiplied with so that the highest is best."""
        return -1 if self.lowest else 1


def metrics_of(written: str) -> tuple[Metric, ...]:
    """The metrics that an option or a study's record names; the first is the one that curves are drawn of.

    Raises:
        UserError: one has no name, or is named twice.
    """
    found = tuple(Metric(one.strip().lstrip("-"), one.strip().startswith("-")) for one in written.split(","))
    names = [one.name for one in found]
    if not all(names):
        raise UserError(f"--metric {written}: a name is missing; write psnr, or several as psnr,-loss.")
    twice = next((one for one in names if names.count(one) > 1), None)
    if twice:
        raise UserError(f"--metric {written}: {twice} is named twice.")
    return found
