"""A set of pairs of several sizes, dealt out to ranks one picture at a time as the data plane does it.

Imported by spawned processes: no pytest here.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from lumiray.data.entries import StreamSpec, evaluation_entries
from lumiray.data.plan import Plan, PlanSettings, Source
from lumiray.evaluate.fidelity import psnr
from lumiray.evaluate.named import FIDELITY, evaluated, evaluators
from lumiray.evaluate.worst import Case, WorstPictures

COUNT, UNUSABLE = 7, (0, 4)  # pairs; those that could not be read


def pair(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A result and its reference, uint8 (1, 3, H, W); the result is too dark and has noise."""
    draw = np.random.default_rng(number)
    height, width = 11 + 5 * number, 40 - 3 * number
    coarse = draw.integers(30, 226, (3, 1 + height // 4, 1 + width // 4))
    reference = coarse.repeat(4, 1).repeat(4, 2)[:, :height, :width]
    restored = (0.7 * reference + draw.normal(0, 6, reference.shape)).clip(0, 255)
    return tuple(torch.from_numpy(one.astype(np.uint8))[None] for one in (restored, reference))  # type: ignore[return-value]


def batches(rank: int, world: int) -> list[dict[str, torch.Tensor]]:
    """A rank's batches of one picture; padding and unusable rows are another one, masked (as `Decoder.evaluation`)."""
    spec = StreamSpec(
        slug="none",
        system_config=None,
        stage="none",
        plan=Plan((Source("none", 1),), PlanSettings(), 1, 1, 0),
        sources=(),
        seed=0,
        total_steps=0,
        validation=SimpleNamespace(num_rows=COUNT),  # type: ignore[arg-type]
        evaluation_batch_size=1,
    )
    found = []
    for entry in evaluation_entries(spec, 0, rank, world):
        valid = entry.start < COUNT and entry.start not in UNUSABLE
        number = entry.start if valid else 1
        restored, reference = pair(number)
        marks = {"row": torch.tensor([number]), "valid": torch.tensor([valid])}
        found.append({"restored": restored, "reference": reference, **marks})
    return found


def figures_of(rank: int, world: int) -> dict[str, float]:
    """This rank's figures by the evaluators that training uses."""
    return evaluated(
        evaluators([*FIDELITY], None, lambda texts: torch.empty(0)), batches(rank, world), lambda batch: batch
    )


def on_ranks(rank: int, world: int) -> list[dict[str, Any]]:
    """The figures of every rank of a group."""
    torch.set_num_threads(1)
    everyone: list[Any] = [None] * world
    dist.all_gather_object(everyone, figures_of(rank, world))
    return everyone


def worst_of(rank: int, world: int, count: int) -> list[Case]:
    """The worst pictures by PSNR, as this rank has them in the end."""
    kept = WorstPictures(psnr, count)
    evaluated([kept], batches(rank, world), lambda batch: batch)
    return kept.cases()


def worst_on_ranks(rank: int, world: int, count: int) -> list[list[int]]:
    """Their rows as every rank of a group has them."""
    torch.set_num_threads(1)
    everyone: list[Any] = [None] * world
    dist.all_gather_object(everyone, [case.row for case in worst_of(rank, world, count)])
    return everyone
