"""One optimizer step of one player: forwards, backwards, and the gradient exactly as a single large batch.

A rank's micro-batches go through the engine one after the other.  For losses within a micro-batch they are
simply averaged.  For losses over the cluster's batch the features of all micro-batches are cached first
(two passes), so that the gradient does not depend on how the batch was cut.  Randomness inside a forward
(dropout, patch dropout) comes from (seed, step, micro-batch), so both passes see the same draws, and so do
another number of ranks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lumiray.system import Batch
from lumiray.train.engine import PlayerModule, backward, discard_gradients
from lumiray.train.terms import Sums, Totals, combine


@dataclass(frozen=True)
class MicroBatch:
    """Tensors of one micro-batch on the device, and its number within the global batch."""

    tensors: Batch
    number: int


@dataclass(frozen=True)
class StepPlace:
    """Where in the run a step is: what its randomness and its scaling follow from."""

    seed: int
    step: int
    num_micro_batches: int  # of the global batch, over all ranks
    num_ranks: int


def seed_forward(place: StepPlace, number: int) -> None:
    """Seed torch's generators for one forward from (seed, step, micro-batch), never from the rank."""
    text = f"{place.seed}:{place.step}:{number}".encode()
    torch.manual_seed(int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "little"))


def accumulate(
    engine: Any, micro_batches: Sequence[MicroBatch], place: StepPlace, masters: Batch | None
) -> Sums | None:
    """Run forwards and backwards of one step; gradients are then reduced and wait for `engine.step()`.

    Returns:
        Sums and counts of every term on this rank, or None if the loss is not finite on any rank: then
        no gradient is left and the step must be skipped.
    """
    module: PlayerModule = engine.module
    if not module.player.global_batch:
        return _within_micro_batches(engine, micro_batches, place)
    if len(micro_batches) == 1:
        return _in_one_pass(engine, micro_batches[0], place, masters)
    return _in_two_passes(engine, micro_batches, place, masters)


def _within_micro_batches(engine: Any, micro_batches: Sequence[MicroBatch], place: StepPlace) -> Sums | None:
    totals: Sums = {}
    scale = place.num_ranks / place.num_micro_batches
    finite = True
    counted = total_counts(engine, micro_batches, place)
    for micro in micro_batches:
        seed_forward(place, micro.number)
        engine.set_gradient_accumulation_boundary(micro is micro_batches[-1])
        loss, sums, left = engine("losses", micro.tensors, scale=scale, step=place.step, totals=counted)
        micro.tensors.update(left)  # for the players that move after this one
        finite = finite and finite_everywhere(loss)
        backward(engine, loss if finite else loss * math.nan)
        for name, (total, count, weight) in sums.items():
            before = totals.get(name, (0.0, 0.0))
            totals[name] = (before[0] + total, before[1] + count, weight)
    if not finite:
        discard_gradients(engine)
        return None
    return totals


def total_counts(engine: Any, micro_batches: Sequence[MicroBatch], place: StepPlace) -> Totals:
    """Counts of the terms of global scope over the step's whole global batch, equal on all ranks."""
    module: PlayerModule = engine.module
    found = [module.system.counts(module.player.name, micro.tensors) for micro in micro_batches]
    names = list(found[0])
    if not names:
        return Totals({}, place.num_ranks, place.num_micro_batches)
    own = torch.stack([sum(torch.as_tensor(one[name]).float() for one in found) for name in names])  # type: ignore[misc]
    if place.num_ranks > 1:
        dist.all_reduce(own)
    return Totals(dict(zip(names, own, strict=True)), place.num_ranks, place.num_micro_batches)


def _in_one_pass(engine: Any, micro: MicroBatch, place: StepPlace, masters: Batch | None) -> Sums | None:
    seed_forward(place, micro.number)
    engine.set_gradient_accumulation_boundary(True)
    loss, sums = engine("contrast", micro.tensors, scale=float(place.num_ranks), masters=masters)
    if not finite_everywhere(loss):
        return None
    backward(engine, loss)
    return sums


def _in_two_passes(
    engine: Any, micro_batches: Sequence[MicroBatch], place: StepPlace, masters: Batch | None
) -> Sums | None:
    cached: list[Batch] = []
    with torch.no_grad():
        for micro in micro_batches:
            seed_forward(place, micro.number)
            cached.append(engine("features", micro.tensors))
    leaves = {name: torch.cat([rows[name] for rows in cached]) for name in cached[0]}
    for value in leaves.values():
        value.requires_grad_(value.is_floating_point())
    module: PlayerModule = engine.module
    stored = module.shared(None) if masters is None else masters
    shared = {name: value.detach().float().requires_grad_() for name, value in stored.items()}
    terms = module.system.contrast(module.player.name, leaves, shared)
    outcome = combine(terms, float(place.num_ranks), next(iter(leaves.values())).device)
    if not finite_everywhere(outcome.loss):
        return None
    outcome.loss.backward()
    gradients = {name: value.grad for name, value in leaves.items() if value.grad is not None}
    shared_gradients = {name: value.grad for name, value in shared.items() if value.grad is not None}
    start = 0
    with running_statistics_kept(module):
        for micro, rows in zip(micro_batches, cached, strict=True):
            stop = start + len(next(iter(rows.values())))
            seed_forward(place, micro.number)
            engine.set_gradient_accumulation_boundary(micro is micro_batches[-1])
            surrogate = engine(
                "surrogate",
                micro.tensors,
                gradients={name: value[start:stop] for name, value in gradients.items()},
                shared_gradients=shared_gradients if start == 0 else {},  # they belong to the batch, once
            )
            backward(engine, surrogate)
            start = stop
    return outcome.terms


@contextmanager
def running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """While inside, batch normalisation does not move its running statistics.

    The first pass has moved them; the second one sees the same micro-batches again.
    """
    found = [one for one in module.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    momenta, counts = [one.momentum for one in found], [one.num_batches_tracked for one in found]
    before = [None if count is None else count.clone() for count in counts]
    for one in found:
        one.momentum = 0.0
    try:
        yield
    finally:
        for one, momentum, count, old in zip(found, momenta, counts, before, strict=True):
            one.momentum = momentum
            if count is not None and old is not None:
                count.copy_(old)


def finite_everywhere(loss: Tensor) -> bool:
    """Whether the loss is finite on all ranks; every rank gets the same answer, so none waits alone."""
    bad = (~torch.isfinite(loss.detach())).float()
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(bad, op=dist.ReduceOp.MAX)
    return float(bad) == 0.0


def reduce_sums(sums: Sums) -> dict[str, float]:
    """Terms as means over the cluster's batch: one collective for all of them."""
    if not sums:
        return {}
    flat = torch.stack([part.reshape(()) for total, count, _ in sums.values() for part in (total, count)])
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(flat)
    values = flat.tolist()
    return {name: values[2 * i] / values[2 * i + 1] if values[2 * i + 1] else math.nan for i, name in enumerate(sums)}
