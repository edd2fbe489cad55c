"""What a rank reads, written down: one entry per block of rows, several entries per read.  Pure, without Ray.

An entry is some rows of one global batch, or one batch of an evaluation.  Entries that follow each other are read
together: neighbours of a slice that lie in different blocks are then one range read.  Evaluation is part of the
same stream, between the training steps where it is due, so that no second pool of decoders has to start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from lumiray.data.index import ShardSet
from lumiray.data.plan import Plan, Planned

BLOCK_ROWS = 128  # of decoded rows in one block: 19 MB at 224 pixels, under the object store's sweet spot
READ_ROWS = 512  # of the entries that one decoder reads together
READ_BLOCKS = 8  # and blocks that they become, however small
TRAIN, EVALUATE = "train", "evaluate"


class Entry(NamedTuple):
    """One block of rows to decode: rows `start` to `stop` of a global batch, or of the evaluation order."""

    kind: str
    step: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start


@dataclass(frozen=True)
class StreamSpec:
    """Everything that decides what a rank receives; travels to the decoders, so it is small and picklable.

    Args:
        sources: shard sets by the plan's source number.
        evaluate_every: steps between evaluations; 0 for none but the last.
        total_steps: steps of the whole run.
    """

    slug: str
    system_config: Any
    stage: str
    plan: Plan
    sources: tuple[ShardSet, ...]
    seed: int
    total_steps: int
    validation: ShardSet | None = None
    evaluation_batch_size: int = 0
    evaluate_every: int = 0
    fail_on_bad_row: bool = False

    def evaluation_due(self, step: int) -> bool:
        """Whether an evaluation follows after `step` finished steps."""
        if self.validation is None:
            return False
        return step == self.total_steps or bool(self.evaluate_every and step % self.evaluate_every == 0)


def rank_rows(plan: Plan, rank: int, num_ranks: int) -> tuple[int, int]:
    """First and last (exclusive) row of a global batch that belong to a rank."""
    share = plan.num_micro_batches // num_ranks * plan.micro_batch_size
    return rank * share, (rank + 1) * share


def entries(spec: StreamSpec, rank: int, num_ranks: int, first_step: int) -> Iterator[Entry]:
    """The stream of a rank from `first_step` (0-based) to the end of the run, evaluations in their place."""
    low, high = rank_rows(spec.plan, rank, num_ranks)
    for step in range(first_step, spec.total_steps):
        for start in range(low, high, BLOCK_ROWS):
            yield Entry(TRAIN, step, start, min(high, start + BLOCK_ROWS))
        if spec.evaluation_due(step + 1):
            yield from evaluation_entries(spec, step + 1, rank, num_ranks)


def num_evaluation_batches(spec: StreamSpec, num_ranks: int) -> int:
    """Batches of one evaluation on each rank: equally many on all of them."""
    rows = spec.validation.num_rows if spec.validation else 0
    return -(-rows // (spec.evaluation_batch_size * num_ranks)) if rows else 0


def evaluation_entries(spec: StreamSpec, step: int, rank: int, num_ranks: int) -> Iterator[Entry]:
    """One evaluation of a rank, the tail padded with masked rows."""
    size, per_rank = spec.evaluation_batch_size, num_evaluation_batches(spec, num_ranks)
    for start in range(rank * per_rank * size, (rank + 1) * per_rank * size, size):
        yield Entry(EVALUATE, step, start, start + size)


def reads(stream: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Entries that are read together, in their order: neighbours of one kind, as many as one decoder takes."""
    together: list[Entry] = []
    for entry in stream:
        rows = sum(one.rows for one in together) + entry.rows
        if together and (rows > READ_ROWS or len(together) == READ_BLOCKS or entry.kind != together[0].kind):
            yield together
            together = []
        together.append(entry)
    if together:
        yield together


def planned_rows(plan: Plan, entry: Entry) -> Planned:
    """The plan of an entry's rows, which may begin and end inside micro-batches."""
    size = plan.micro_batch_size
    first, last = entry.start // size, -(-entry.stop // size)
    batch = plan.batch(entry.step, range(first, last))
    cut = slice(entry.start - first * size, entry.stop - first * size)
    return Planned(batch.source[cut], batch.epoch[cut], batch.row[cut], batch.position[cut])
