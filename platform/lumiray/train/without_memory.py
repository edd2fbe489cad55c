"""Networks as shapes alone: what is counted about them needs no values."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from lumiray.system import Stage, System


def networks_without_memory(system: System, stage: Stage) -> nn.ModuleDict:
    """Build the stage's networks as shapes alone; where a network needs values to be built, it is built really.

    Raises:
        UserError: as `System.build`, for instance weights that are not there.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*meta parameter.*")  # weights that go nowhere
        try:
            with torch.device("meta"):
                return system.build(stage)
        except (RuntimeError, NotImplementedError):
            return system.build(stage)
