"""Which rank the others wait for at the beginning of steps: its rows come late, or its machine is busy."""

from __future__ import annotations

import torch
import torch.distributed as dist


class Pace:
    """Adds up how long this rank waits for the others when they agree to begin a step.

    Whoever waits least is whom the rest waits for.
    """

    def __init__(self, num_ranks: int, device: torch.device) -> None:
        self._num_ranks, self._device = num_ranks, device
        self._waited_s = 0.0

    def waited(self, seconds: float) -> None:
        """Note one such wait."""
        self._waited_s += seconds

    def figures(self, steps: int) -> dict[str, float]:
        """Since the last call: `slowest_rank`, and `slowest_rank_late_s`, by how much a step; every rank calls it.

        Args:
            steps: since the last call.
        """
        waited, self._waited_s = self._waited_s, 0.0
        if self._num_ranks == 1:
            return {}
        own = torch.tensor([waited], dtype=torch.float64 if self._device.type == "cpu" else torch.float32)
        every = [torch.zeros_like(own, device=self._device) for _ in range(self._num_ranks)]
        dist.all_gather(every, own.to(self._device))
        found = [float(one) for one in every]
        least = min(found)
        return {"slowest_rank": float(found.index(least)), "slowest_rank_late_s": (max(found) - least) / steps}
