"""Contrastive losses computed in tiles and recomputed in backward: memory grows with b + N, not with b x N.

The forward pass keeps one log-sum-exp per row; the backward pass makes each tile's logits again and adds its
share to the gradients of rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as functional
from torch import Tensor

if TYPE_CHECKING:
    from lumizoo.blocks.contrast import Columns


def tiled_softmax(queries: Tensor, keys: Tensor, scale: Tensor, columns: Columns, tile: int) -> Tensor:
    """Sum over rows of cross-entropy against the partner's column; arguments as in `softmax_contrast`."""
    return _TiledSoftmax.apply(queries, keys, scale, columns, tile)


def tiled_sigmoid(queries: Tensor, keys: Tensor, scale: Tensor, bias: Tensor, columns: Columns, tile: int) -> Tensor:
    """Sum over all pairs of -log sigmoid(z (s q.k + bias)); arguments as in `sigmoid_contrast`."""
    return _TiledSigmoid.apply(queries, keys, scale, bias, columns, tile)


def _spans(length: int, tile: int) -> Iterator[slice]:
    for start in range(0, length, tile):
        yield slice(start, min(length, start + tile))


def _logits(queries: Tensor, keys: Tensor, scale: Tensor, columns: Columns, rows: slice, cols: slice) -> Tensor:
    logits = (scale * queries[rows]) @ keys[cols].T
    masked = columns.masked(rows, cols)
    return logits if masked is None else logits.masked_fill_(masked, -torch.inf)


class _TiledSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, scale: Tensor, columns: Columns, tile: int) -> Tensor:
        normaliser = queries.new_full((len(queries),), -torch.inf)
        for rows in _spans(len(queries), tile):
            for cols in _spans(len(keys), tile):
                logits = _logits(queries, keys, scale, columns, rows, cols)
                normaliser[rows] = torch.logaddexp(normaliser[rows], logits.logsumexp(1))
        partners = (queries * keys[columns.labels]).sum(1)
        ctx.save_for_backward(queries, keys, scale, normaliser, partners)
        ctx.columns, ctx.tile = columns, tile
        return (normaliser - scale * partners).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, scale, normaliser, partners = ctx.saved_tensors
        to_queries, to_keys = torch.zeros_like(queries), torch.zeros_like(keys)
        to_scale = -partners.sum()
        for rows in _spans(len(queries), ctx.tile):
            for cols in _spans(len(keys), ctx.tile):
                logits = _logits(queries, keys, scale, ctx.columns, rows, cols)
                shares = logits.sub_(normaliser[rows, None]).exp_()
                pulled = shares @ keys[cols]
                to_scale = to_scale + (pulled * queries[rows]).sum()
                to_queries[rows] += pulled
                to_keys[cols] += shares.T @ queries[rows]
        to_queries -= keys[ctx.columns.labels]
        to_keys.index_add_(0, ctx.columns.labels, queries, alpha=-1)
        factor = gradient * scale
        return to_queries * factor, to_keys * factor, (to_scale * gradient).reshape(scale.shape), None, None


class _TiledSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, scale: Tensor, bias: Tensor, columns: Columns, tile: int
    ) -> Tensor:
        total = queries.new_zeros(())
        for rows in _spans(len(queries), tile):
            for cols in _spans(len(keys), tile):
                signed, _ = _signed(queries, keys, scale, bias, columns, rows, cols)
                total = total - functional.logsigmoid(signed).sum()
        ctx.save_for_backward(queries, keys, scale, bias)
        ctx.columns, ctx.tile = columns, tile
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, scale, bias = ctx.saved_tensors
        to_queries, to_keys = torch.zeros_like(queries), torch.zeros_like(keys)
        to_scale, to_bias = queries.new_zeros(()), queries.new_zeros(())
        for rows in _spans(len(queries), ctx.tile):
            for cols in _spans(len(keys), ctx.tile):
                signed, signs = _signed(queries, keys, scale, bias, ctx.columns, rows, cols)
                slopes = -signs * torch.sigmoid(-signed)  # d loss / d logit
                pulled = slopes @ keys[cols]
                to_scale = to_scale + (pulled * queries[rows]).sum()
                to_bias = to_bias + slopes.sum()
                to_queries[rows] += pulled
                to_keys[cols] += slopes.T @ queries[rows]
        factor = gradient * scale
        shapes = (to_scale * gradient).reshape(scale.shape), (to_bias * gradient).reshape(bias.shape)
        return to_queries * factor, to_keys * factor, *shapes, None, None


def _signed(
    queries: Tensor, keys: Tensor, scale: Tensor, bias: Tensor, columns: Columns, rows: slice, cols: slice
) -> tuple[Tensor, Tensor]:
    """z * logit of a tile, +inf (no loss) where a pair is left out; and z."""
    logits = (scale * queries[rows]) @ keys[cols].T + bias
    numbers = torch.arange(cols.start, cols.stop, device=logits.device)
    signs = torch.where(columns.labels[rows, None] == numbers[None, :], 1.0, -1.0)
    signed = signs * logits
    masked = columns.masked(rows, cols)
    return (signed if masked is None else signed.masked_fill(masked, torch.inf)), signs
