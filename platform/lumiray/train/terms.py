"""Terms of a loss put together: what is gone backward from, and what is logged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from lumiray.system import Scope, Term

Sums = dict[str, tuple[Tensor, Tensor, float]]  # term -> (sum, count, weight) on this rank


@dataclass
class Outcome:
    """What one forward gives: the loss to go backward from, and numbers to log.

    Args:
        loss: scalar with gradient; already scaled so that DeepSpeed's mean over ranks is the batch's loss.
        terms: name -> (sum, count, weight) on this rank, without gradient.
    """

    loss: Tensor
    terms: Sums = field(default_factory=dict)


def global_count(count: float | Tensor, device: torch.device) -> Tensor:
    """A term's count summed over all ranks (at least 1, so that an empty batch gives 0, not NaN)."""
    total = torch.as_tensor(count, dtype=torch.float32, device=device).clone()
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(total)
    return total.clamp(min=1.0)


@dataclass(frozen=True)
class Totals:
    """Counts of the terms of global scope over a step's whole global batch, which `ranks` share."""

    counts: Mapping[str, Tensor]
    ranks: int
    micro_batches: int

    def divisor(self, name: str, term: Term) -> Tensor:
        """What a term's sum is divided by; where nothing is counted its sum is taken to be 0.

        Raises:
            TypeError: the system did not say its count beforehand.
        """
        if name not in self.counts:
            raise TypeError(f"term {name!r} has global scope, and `counts` of its system does not give its count")
        total = self.counts[name].clamp(min=term.least * self.micro_batches)
        return torch.where(total > 0, total, 1.0) / self.ranks  # DeepSpeed averages over ranks


def combine(terms: Mapping[str, Term], scale: float, device: torch.device, totals: Totals | None = None) -> Outcome:
    """Weighted sum of terms; global terms are divided by the cluster's count.

    Args:
        scale: factor of a mean within a micro-batch (ranks / micro-batches of the step, for DeepSpeed averages over
            ranks); without `totals` of every term, and this is a step's only micro-batch of a rank.
    """
    loss = torch.zeros((), device=device)
    logged = {}
    for name, term in terms.items():
        count = torch.as_tensor(term.count, dtype=torch.float32, device=device)
        if term.scope is Scope.GLOBAL and totals is not None:
            factor = 1 / totals.divisor(name, term)
        else:
            factor = scale / (global_count(count, device) if term.scope is Scope.GLOBAL else count.clamp(min=1.0))
        if term.weight:
            loss = loss + term.weight * factor * term.sum
        logged[name] = (term.sum.detach().float(), count, term.weight)
    return Outcome(loss, logged)
