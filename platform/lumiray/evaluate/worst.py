"""The pictures of an evaluation set with the worst figures, kept small enough to travel and to be looked at."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from lumiray.data.picture import resize
from lumiray.evaluate.collect import gathered_objects
from lumiray.evaluate.fidelity import Measure
from lumiray.system import Batch

LONGEST = 800  # pixels of a side that are kept: enough to see what is wrong


@dataclass(frozen=True, order=True)
class Case:
    """One picture; the worse one is the smaller one, and of equal ones the earlier row.

    Args:
        figure: of the measure, lower is worse.
        row: its ordinal in the evaluation set.
        pictures: by what they are (`input`, `restored`, `reference`), uint8 RGB `(h, w, 3)`, LONGEST at most.
    """

    figure: float
    row: int
    pictures: dict[str, np.ndarray] = field(compare=False)


class WorstPictures:
    """An evaluation that computes no figure: it remembers the pictures of the lowest ones.

    Args:
        measure: restored and reference levels `(B, 3, H, W)` -> `(B,)`.
        count: pictures to keep.
    """

    def __init__(self, measure: Measure, count: int) -> None:
        self._measure, self._count = measure, count
        self._cases: list[Case] = []

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Take one batch; outputs have `restored` and `reference`, uint8 `(B, 3, H, W)`, rows `row` and `valid`.

        The input is shown, too: `input` of the outputs, or `lq` of the batch, where there is one of them.
        """
        sources = {"input": outputs.get("input", batch.get("lq"))}
        sources |= {name: outputs[name] for name in ("restored", "reference")}
        figures = self._measure(outputs["restored"], outputs["reference"]).tolist()
        marks = zip(figures, batch["row"].tolist(), batch["valid"].tolist(), strict=True)
        for place, (figure, row, valid) in enumerate(marks):
            if not valid or (len(self._cases) == self._count and (figure, row) > _key(self._cases[-1])):
                continue
            pictures = {name: small(many[place]) for name, many in sources.items() if many is not None}
            insort(self._cases, Case(figure, row, pictures))
            del self._cases[self._count :]

    def compute(self) -> dict[str, float]:
        """No figure."""
        return {}

    def cases(self) -> list[Case]:
        """The worst ones of all ranks, worst first; every rank must call it."""
        found = [case for cases in gathered_objects(self._cases) for case in cases]
        return sorted(found)[: self._count]


def small(pixels: Tensor) -> np.ndarray:
    """uint8 `(3, H, W)` to `(h, w, 3)` on the CPU, made smaller where it has more than LONGEST pixels a side."""
    picture = np.ascontiguousarray(pixels.cpu().numpy().transpose(1, 2, 0))
    height, width = picture.shape[:2]
    scale = min(1.0, LONGEST / max(height, width))
    return resize(picture, max(1, round(height * scale)), max(1, round(width * scale)))


def _key(case: Case) -> tuple[float, int]:
    return case.figure, case.row
