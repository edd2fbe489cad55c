"""Contrastive losses computed in tiles and recomputed in backward: memory grows with b + N, not with b x N.

The forward pass keeps one log-sum-exp per row; the backward pass makes each tile's logits again and adds its
share to the gradients of rows and columns.  That is four matrix products where the dense form needs three; what
it costs and saves is measured by benchmarks/contrastive_memory.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.autograd.function import once_differentiable

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


def _masked(logits: Tensor, columns: Columns, rows: slice, cols: slice) -> Tensor:
    masked = columns.masked(rows, cols)
    return logits if masked is None else logits.masked_fill_(masked, -torch.inf)


class _TiledSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, scale: Tensor, columns: Columns, tile: int) -> Tensor:
        normaliser = queries.new_full((len(queries),), -torch.inf)
        total = queries.new_zeros(())
        for rows in _spans(len(queries), tile):
            scaled, normalisers = scale * queries[rows], normaliser[rows]
            for cols in _spans(len(keys), tile):
                logits = _masked(scaled @ keys[cols].T, columns, rows, cols)
                torch.logaddexp(normalisers, logits.logsumexp(1), out=normalisers)
            total += (normalisers - (scaled * keys[columns.labels[rows]]).sum(1)).sum()
        ctx.save_for_backward(queries, keys, scale, normaliser)
        ctx.columns, ctx.tile = columns, tile
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, scale, normaliser = ctx.saved_tensors
        to_queries, to_keys = torch.zeros_like(queries), torch.zeros_like(keys)
        to_scale = queries.new_zeros(())
        for rows in _spans(len(queries), ctx.tile):
            scaled, own = scale * queries[rows], to_queries[rows]
            for cols in _spans(len(keys), ctx.tile):
                logits = _masked(scaled @ keys[cols].T, ctx.columns, rows, cols)
                shares = logits.sub_(normaliser[rows, None]).exp_()
                own.addmm_(shares, keys[cols])
                to_keys[cols].addmm_(shares.T, queries[rows])
            partners = ctx.columns.labels[rows]
            own -= keys[partners]
            to_keys.index_add_(0, partners, queries[rows], alpha=-1)
            to_scale += (own * queries[rows]).sum()
        return (*_scaled(to_queries, to_keys, to_scale, scale, gradient), None, None)


class _TiledSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, scale: Tensor, bias: Tensor, columns: Columns, tile: int
    ) -> Tensor:
        total = queries.new_zeros(())
        for rows in _spans(len(queries), tile):
            scaled = scale * queries[rows]
            for cols in _spans(len(keys), tile):
                signed, _ = _signed(scaled @ keys[cols].T + bias, columns, rows, cols)
                total -= functional.logsigmoid(signed).sum()
        ctx.save_for_backward(queries, keys, scale, bias)
        ctx.columns, ctx.tile = columns, tile
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, scale, bias = ctx.saved_tensors
        to_queries, to_keys = torch.zeros_like(queries), torch.zeros_like(keys)
        to_scale, to_bias = queries.new_zeros(()), queries.new_zeros(())
        for rows in _spans(len(queries), ctx.tile):
            scaled, own = scale * queries[rows], to_queries[rows]
            for cols in _spans(len(keys), ctx.tile):
                signed, signs = _signed(scaled @ keys[cols].T + bias, ctx.columns, rows, cols)
                slopes = signed.neg_().sigmoid_().mul_(signs).neg_()  # d loss / d logit
                to_bias += slopes.sum()
                own.addmm_(slopes, keys[cols])
                to_keys[cols].addmm_(slopes.T, queries[rows])
            to_scale += (own * queries[rows]).sum()
        scaled_gradients = _scaled(to_queries, to_keys, to_scale, scale, gradient)
        return (*scaled_gradients, (to_bias * gradient).reshape(bias.shape), None, None)


def _scaled(
    to_queries: Tensor, to_keys: Tensor, to_scale: Tensor, scale: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with the factors that all tiles share; the two large ones are changed in place."""
    factor = gradient * scale
    return to_queries.mul_(factor), to_keys.mul_(factor), (to_scale * gradient).reshape(scale.shape)


def _signed(logits: Tensor, columns: Columns, rows: slice, cols: slice) -> tuple[Tensor, Tensor]:
    """z * logit of a tile, +inf (no loss) where a pair is left out; and z."""
    numbers = torch.arange(cols.start, cols.stop, device=logits.device)
    signs = torch.where(columns.labels[rows, None] == numbers[None, :], 1.0, -1.0)
    signed = logits.mul_(signs)
    masked = columns.masked(rows, cols)
    return (signed if masked is None else signed.masked_fill_(masked, torch.inf)), signs
