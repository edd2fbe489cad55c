"""Pictures of like shapes in one micro-batch: rows change places inside windows of global batches, and only there.

Padding to the largest picture of a micro-batch wastes little where all are alike.  A window is some global batches
of the plan; its rows stay in it, and every place keeps its source.  So every row still comes once per epoch, every
micro-batch has its quota of each source, and a position is reached by looking at its own window alone.

Within a window the rows of each source are sorted into strips of like aspect ratio, each strip by area, up and down
in turn (as a map is cut into tiles of equally many points); pieces of that line are micro-batches, and a keyed
permutation sends them to their places in the window, so that global batches are mixed as before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lumiray.data.permute import key_of, permute
from lumiray.errors import UserError

MOST_ROWS = 1 << 25
"""Of all sources: their shapes are held in memory by every decoding process, 4 bytes each."""


@dataclass(frozen=True, eq=False)
class Buckets:
    """What rows are gathered by.

    Args:
        window: global batches among which rows change places, at least 1.
        shapes: of each source, heights and widths by ordinal, uint16 (rows, 2); zeros where no shape could be told,
            which counts as a very small square.
        total_steps: steps of the run; its last window ends there, so that rows of an epoch that ends there all come.
        seed: the run's seed.

    Raises:
        UserError: more rows than `MOST_ROWS`, or a source without any shape.
    """

    window: int
    shapes: tuple[np.ndarray, ...]
    total_steps: int
    seed: int

    def __post_init__(self) -> None:
        rows = sum(map(len, self.shapes))
        if rows > MOST_ROWS:
            raise UserError(
                f"--data.bucket-window keeps the shapes of all rows in memory, and {rows} rows are more than the "
                f"{MOST_ROWS} that it takes: leave it out, or take fewer rows with --data.filter."
            )
        if any(not shapes.any() for shapes in self.shapes):
            raise UserError(
                "--data.bucket-window needs pictures whose height and width can be told, and a source has none in any "
                "of its rows: leave the option out, or look at the shards with `lumiray shards verify`."
            )

    def window_of(self, step: int) -> tuple[int, int]:
        """First and last (exclusive) step of the window that a step lies in; steps past the run have windows too."""
        first = step // self.window * self.window
        last = first + self.window
        if first < self.total_steps <= step:
            first = self.total_steps
        elif step < self.total_steps < last:
            last = self.total_steps
        return first, last

    def arranged(self, first_step: int, source: np.ndarray, row: np.ndarray, size: int) -> np.ndarray:
        """Which row of the plan comes at each place of a window.

        Args:
            first_step: of the window.
            source, row: of all its places in the plan's order, (places,) each.
            size: rows per micro-batch.

        Returns:
            int64 (places,), a permutation of the places, each of which keeps its source.
        """
        batches = len(source) // size
        key = key_of("buckets", self.seed, first_step)
        slots = permute(np.arange(batches), batches, key)  # the place in the window of each piece of the line
        taken = np.empty(len(source), dtype=np.int64)
        for number, shapes in enumerate(self.shapes):
            mine = np.flatnonzero(source == number)
            if len(mine):
                quotas = np.bincount(mine // size, minlength=batches)
                line = mine[sorted_line(shapes[row[mine]], quotas[slots])]
                ends = np.cumsum(quotas)
                begins = (ends - quotas)[slots]  # where the slot's places begin among those of this source
                own = quotas[slots]
                within = np.arange(len(mine)) - np.repeat(np.cumsum(own) - own, own)
                taken[mine[np.repeat(begins, own) + within]] = line
        return taken


def sorted_line(shapes: np.ndarray, pieces: Sequence[int] | np.ndarray) -> np.ndarray:
    """Rows in an order of which neighbouring pieces have like aspect ratios and areas.

    Args:
        shapes: heights and widths, (rows, 2).
        pieces: lengths of the pieces, with the sum `rows`.

    Returns:
        int64 (rows,), a permutation; equal shapes keep their order.
    """
    sides = np.maximum(np.asarray(shapes, dtype=np.int64), 1)
    height, width = sides[:, 0], sides[:, 1]
    count = len(pieces)
    strips = max(1, math.isqrt(count))
    # whole numbers and one division, which every machine rounds alike; a logarithm is not
    by_aspect = np.lexsort((height * width, width / height))
    edges = np.concatenate([[0], np.cumsum(pieces)])[[strip * count // strips for strip in range(strips + 1)]]
    line = []
    for strip in range(strips):
        rows = by_aspect[edges[strip] : edges[strip + 1]]
        area = height[rows] * width[rows]
        line.append(rows[np.lexsort((rows, area if strip % 2 == 0 else -area))])
    return np.concatenate(line)
