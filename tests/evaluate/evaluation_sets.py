"""Evaluation sets of small whole numbers, cut for ranks as the data plane cuts them, and run by the real evaluators.

Imported by spawned processes: no pytest here.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import full_matrix
import numpy as np
import torch
import torch.distributed as dist

from lumiray.data.entries import StreamSpec, evaluation_entries
from lumiray.data.plan import Plan, PlanSettings, Source
from lumiray.errors import UserError
from lumiray.evaluate.classes import Classes
from lumiray.evaluate.named import evaluated, evaluators

WIDTH = 4
TEMPLATES = ("a photo of a {}.", "{}", "many {}")


@dataclass(frozen=True)
class Example:
    """One row of an evaluation set: features of its picture and captions, its class (-1 for none)."""

    image: list[float]
    texts: list[list[float]]
    label: int = -1
    usable: bool = True


@dataclass(frozen=True)
class EvaluationSet:
    """What is evaluated, in batches of how many rows; without class names only retrieval is."""

    examples: tuple[Example, ...]
    batch_size: int
    class_names: tuple[str, ...] = ()

    def batches(self, rank: int, world: int) -> list[dict[str, torch.Tensor]]:
        """A rank's batches; padding and unusable rows are copies of another row, masked (as `Decoder.evaluation`)."""
        spec = StreamSpec(
            slug="none",
            system_config=None,
            stage="none",
            plan=Plan((Source("none", 1),), PlanSettings(), 1, 1, 0),
            sources=(),
            seed=0,
            total_steps=0,
            validation=SimpleNamespace(num_rows=len(self.examples)),  # type: ignore[arg-type]
            evaluation_batch_size=self.batch_size,
        )
        return [self._batch(entry.start, entry.stop) for entry in evaluation_entries(spec, 0, rank, world)]

    def _batch(self, start: int, stop: int) -> dict[str, torch.Tensor]:
        usable = [number for number, one in enumerate(self.examples) if one.usable]
        valid = [number in usable for number in range(start, stop)]
        filler = next((number for number in usable if start <= number < stop), usable[0])
        rows = [number if good else filler for number, good in zip(range(start, stop), valid, strict=True)]
        chosen = [self.examples[number] for number in rows]
        counts = torch.tensor([len(one.texts) for one in chosen])
        return {
            "row": torch.tensor(rows),
            "valid": torch.tensor(valid),
            "label": torch.tensor([one.label for one in chosen]),
            "image": torch.tensor([one.image for one in chosen]),
            "text": torch.tensor([text for one in chosen for text in one.texts]).reshape(-1, WIDTH),
            "owner": torch.arange(len(chosen)).repeat_interleave(counts),
        }

    def expected(self, classes: torch.Tensor) -> dict[str, float]:
        """All figures over the full matrices; `classes` are features `(D, classes)`."""
        usable = [one for one in self.examples if one.usable]
        asked = [one for one in usable if one.texts]
        image, text = [one.image for one in asked], [text for one in asked for text in one.texts]
        owner = [number for number, one in enumerate(asked) for _ in one.texts]
        figures = full_matrix.retrieval(image, text, owner) if text else {}
        if self.class_names:
            labelled = [one for one in usable if one.label >= 0]
            rows = [one.image for one in labelled], classes.T.double().tolist(), [one.label for one in labelled]
            figures |= full_matrix.zero_shot(*rows)
        return figures


def random_set(
    seed: int, num_rows: int, batch_size: int, num_classes: int = 0, bad: Sequence[int] = ()
) -> EvaluationSet:
    """Rows with 0 to 3 captions and, where there are classes, mostly a class; the rows `bad` cannot be used."""
    draw = np.random.default_rng(seed)
    examples = tuple(
        Example(
            full_matrix.whole_numbers(draw, 1, WIDTH)[0],
            full_matrix.whole_numbers(draw, int(draw.integers(0, 4)), WIDTH),
            int(draw.integers(-1, num_classes)) if num_classes else -1,
            number not in bad,
        )
        for number in range(num_rows)
    )
    return EvaluationSet(examples, batch_size, tuple(f"thing {number}" for number in range(num_classes)))


def embed_texts(texts: list[str], calls: list[int] | None = None) -> torch.Tensor:
    """Features that depend on the text alone, and a note of how many texts were asked for."""
    if calls is not None:
        calls.append(len(texts))
    seeds = [sum(place * letter for place, letter in enumerate(text.encode(), 1)) for text in texts]
    return torch.stack([torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def figures_of(one: EvaluationSet, rank: int = 0, world: int = 1) -> dict[str, Any]:
    """This rank's figures of a set by the evaluators that training uses, or the mistake that they name."""
    classes = Classes(one.class_names, TEMPLATES) if one.class_names else None
    try:
        return evaluated(evaluators(["retrieval"], classes, embed_texts), one.batches(rank, world), lambda batch: batch)
    except UserError as error:
        return {"error": str(error)}


def classifier_of(names: Sequence[str]) -> dict[str, Any]:
    """This rank's classifier of these classes, and how many texts each call embedded."""
    from lumiray.evaluate.zero_shot import class_embeddings

    calls: list[int] = []
    found = class_embeddings(functools.partial(embed_texts, calls=calls), names, TEMPLATES, classes_at_once=2)
    return {"classifier": found.tolist(), "calls": calls}


def on_ranks(rank: int, world: int, sets: list[EvaluationSet], class_lists: list[list[str]]) -> dict[str, Any]:
    """Everything on every rank of a group: lists by rank of lists by set, and by list of classes."""
    torch.set_num_threads(1)
    own = [figures_of(one, rank, world) for one in sets], [classifier_of(names) for names in class_lists]
    everyone: list[Any] = [None] * world
    dist.all_gather_object(everyone, own)
    return {"figures": [one[0] for one in everyone], "classifiers": [one[1] for one in everyone]}
