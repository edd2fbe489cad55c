"""Evaluations by the names that a system's stages use."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from lumiray.errors import UserError, near
from lumiray.evaluate.retrieval import RetrievalEvaluator
from lumiray.system import Batch


class Evaluator(Protocol):
    """Takes outputs batch by batch; computes figures that are equal on every rank."""

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Take one batch."""

    def compute(self) -> dict[str, float]:
        """Figures over everything seen by all ranks."""


EVALUATORS = {"retrieval": RetrievalEvaluator}


def evaluator(name: str) -> Evaluator:
    """A fresh evaluation of that name.

    Raises:
        UserError: there is none.
    """
    if name not in EVALUATORS:
        raise UserError(f"There is no evaluation {name!r}.{near(name, EVALUATORS)}")
    return EVALUATORS[name]()
