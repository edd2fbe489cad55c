"""Contrastive losses over the batch of the whole cluster: softmax (CLIP) and sigmoid (SigLIP).

Rank r sums over its own rows against all columns: memory b x N in place of N x N, and the mean over all ranks'
rows is the loss of the global batch (card clip, Losses).  In tiles it is b x tile, so that memory grows linearly
with the global batch.  Scale and bias come exponentiated, in fp32, and so do features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

from lumizoo.blocks.gather import gather_rows, rank
from lumizoo.blocks.tiled import tiled_sigmoid, tiled_softmax

# of one direction's logits; above it, tiles are used where the caller lets us choose.  The dense form's peak is
# more than four times as much, and tiles cost a third more of a loss that is a small part of a step
DENSE_LIMIT_BYTES = 1 << 28
AUTO_TILE, NEVER_TILE = 0, -1
DEFAULT_TILE = 2048


@dataclass(frozen=True)
class Columns:
    """What the rows of one direction are compared with.

    Args:
        labels: column of each row's partner, int64 `(b,)`.
        row_ids, column_ids: identities, int64 `(b,)` and `(N,)`; equal ones that are not partners are no
            negatives of each other.  Several kinds of identity may be given.
    """

    labels: Tensor
    row_ids: tuple[Tensor, ...]
    column_ids: tuple[Tensor, ...]

    def masked(self, rows: slice, columns: slice) -> Tensor | None:
        """Which pairs of a tile are left out, bool `(rows, columns)`; None if masking is off."""
        if not self.row_ids:
            return None
        numbers = torch.arange(columns.start, columns.stop, device=self.labels.device)
        same = torch.zeros(rows.stop - rows.start, len(numbers), dtype=torch.bool, device=numbers.device)
        for own, every in zip(self.row_ids, self.column_ids, strict=True):
            same |= own[rows, None] == every[None, columns]
        return same & (self.labels[rows, None] != numbers[None, :])


def columns_of(rows: Tensor, ids: Sequence[Tensor]) -> Columns:
    """Columns for this rank's rows when all ranks' rows stand in rank order."""
    labels = torch.arange(len(rows), device=rows.device) + rank() * len(rows)
    return Columns(labels, tuple(ids), tuple(gather_rows(one) for one in ids))


def softmax_contrast(
    image: Tensor, text: Tensor, scale: Tensor, ids: Sequence[Tensor] = (), tile: int = AUTO_TILE
) -> Tensor:
    """Sum over this rank's rows of the symmetric cross-entropy; divide by the global count of rows.

    Args:
        image, text: normalised features of this rank, fp32 `(b, D)`.
        scale: exponentiated logit scale, one value.
        ids: identities for masking false negatives, each int64 `(b,)`.
        tile: side of a tile; 0 chooses by memory, -1 is never tiled.
    """
    columns = columns_of(image, ids)
    total = image.new_zeros(())
    for queries, keys in ((image, gather_rows(text)), (text, gather_rows(image))):
        side = tile_for(tile, len(queries), len(keys))
        if side:
            total = total + tiled_softmax(queries, keys, scale, columns, side)
        else:
            total = total + _dense_softmax(queries, keys, scale, columns)
    return total / 2


def sigmoid_contrast(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    ids: Sequence[Tensor] = (),
    tile: int = AUTO_TILE,
) -> Tensor:
    """Sum over this rank's pictures and all texts of -log sigmoid(z (s I.T + bias)), z = +1 for partners.

    Divided by the global count of rows it is the mean over ranks of the published loss (card clip, Sigmoid).
    """
    columns = columns_of(image, ids)
    keys = gather_rows(text)
    side = tile_for(tile, len(image), len(keys))
    if side:
        return tiled_sigmoid(image, keys, scale, bias, columns, side)
    return _dense_sigmoid(image, keys, scale, bias, columns)


def tile_for(tile: int, rows: int, columns: int) -> int:
    """The tile's side, or 0 for the dense form."""
    if tile == AUTO_TILE:
        return DEFAULT_TILE if rows * columns * 4 > DENSE_LIMIT_BYTES else 0
    return max(tile, 0)


def _dense_softmax(queries: Tensor, keys: Tensor, scale: Tensor, columns: Columns) -> Tensor:
    logits = scale * queries @ keys.T
    masked = columns.masked(slice(0, len(queries)), slice(0, len(keys)))
    if masked is not None:
        logits = logits.masked_fill(masked, -torch.inf)
    return functional.cross_entropy(logits, columns.labels, reduction="sum")


def _dense_sigmoid(queries: Tensor, keys: Tensor, scale: Tensor, bias: Tensor, columns: Columns) -> Tensor:
    logits = scale * queries @ keys.T + bias
    signs = -torch.ones_like(logits)
    signs.scatter_(1, columns.labels[:, None], 1.0)
    losses = -functional.logsigmoid(signs * logits)
    masked = columns.masked(slice(0, len(queries)), slice(0, len(keys)))
    if masked is not None:
        losses = losses.masked_fill(masked, 0.0)
    return losses.sum()
