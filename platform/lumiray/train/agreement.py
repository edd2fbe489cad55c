"""What all ranks agree on before they begin a step: that they have their rows, and none wants to end the run.

Without it one rank that cannot go on would leave the others waiting for it in a collective of the step.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import torch.distributed as dist

from lumiray.train.notice import Notice

GO, STOP, FAILED = 0, 1, 2  # what a rank wants before a step; the gravest of all counts


@dataclass(frozen=True)
class Agreed:
    """The same on every rank.

    Args:
        verdict: the gravest of all ranks' wishes.
        replaced: rows that were replaced, over all ranks.
        late: some rank does not have its rows yet.
        going: a host of the run is about to be taken away.
    """

    verdict: int
    replaced: int
    late: bool
    going: bool


class Agreement:
    """One rank's part in it; adds up how long this rank waits for the others there.

    Args:
        notice: of hosts that are about to be taken away.
    """

    def __init__(self, num_ranks: int, device: torch.device, notice: Notice) -> None:
        self._num_ranks, self._device, self._notice = num_ranks, device, notice
        self._waited_s = 0.0

    def reach(self, verdict: int, replaced: int, late: bool) -> Agreed:
        """Hear what the other ranks want; all call it equally often."""
        own = [verdict == STOP, verdict == FAILED, replaced, late, self._notice.heard(), self._notice.due()]
        if self._num_ranks > 1:
            begin = time.perf_counter()
            told = torch.tensor(own, dtype=torch.int64, device=self._device)
            dist.all_reduce(told)
            own = told.tolist()
            self._waited_s += time.perf_counter() - begin
        stops, failures, total, missing, heard, due = own
        going = bool(heard) or (bool(due) and self._notice.drained())
        return Agreed(FAILED if failures else STOP if stops else GO, int(total), bool(missing), going)

    def slowest(self, steps: int) -> dict[str, float]:
        """Since the last call: `slowest_rank`, which the others wait for, and `slowest_rank_late_s`, a step.

        Whoever waits least is whom the rest waits for: its rows come late, or its host is busy.  Every rank calls it.

        Args:
            steps: since the last call.
        """
        waited, self._waited_s = self._waited_s, 0.0
        if self._num_ranks == 1:
            return {}
        own = torch.tensor([waited], dtype=torch.float32, device=self._device)
        every = [torch.zeros_like(own) for _ in range(self._num_ranks)]
        dist.all_gather(every, own)
        found = [float(one) for one in every]
        least = min(found)
        return {"slowest_rank": float(found.index(least)), "slowest_rank_late_s": (max(found) - least) / steps}
