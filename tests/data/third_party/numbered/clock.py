"""A network that counts the steps in its history, and a record of what each of them received."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


class Clock(nn.Module):
    """One weight that plain SGD with a learning rate of 1 moves from step to step by 1.

    It is restored with a checkpoint, so it says which step *in the history of these weights* is being made.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.Parameter(torch.zeros(1))

    def forward(self) -> Tensor:
        """A loss, scalar, with the gradient -1."""
        return -self.steps.sum()


def record(folder: str, step: int, numbers: np.ndarray, decoders: np.ndarray) -> None:
    """Note which rows a micro-batch held, as their pixels tell, and which processes have decoded them."""
    import ray

    group = ray.get_runtime_context().get_placement_group_id()  # one for each start of the workers
    line = {"step": step, "rows": numbers.tolist(), "group": group, "time": time.time(), "process": os.getpid()}
    with (Path(folder) / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps(line | {"decoders": sorted(set(decoders.tolist()))}) + "\n")
