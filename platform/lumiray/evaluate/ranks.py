"""Ranks of true partners among all candidates, in chunks: N x N scores are never stored (card clip, evaluation)."""

from __future__ import annotations

import torch
from torch import Tensor


def partner_ranks(queries: Tensor, candidates: Tensor, partners: Tensor, chunk: int = 4096) -> Tensor:
    """0-based rank of each query's partner.

    The rank is the number of candidates that score strictly higher, plus those of equal score with a smaller
    index.

    Args:
        queries: fp32 `(q, D)`.
        candidates: fp32 `(N, D)`.
        partners: int64 `(q,)`, index of the partner among the candidates.

    Returns:
        int64 `(q,)`.
    """
    ranks = torch.zeros(len(queries), dtype=torch.int64)
    for start in range(0, len(queries), chunk):
        rows, own = queries[start : start + chunk], partners[start : start + chunk]
        # the partner's score comes out of the same tile product as the others, so that ties are ties
        best = torch.full((len(rows),), -torch.inf)
        tiles = [slice(first, first + chunk) for first in range(0, len(candidates), chunk)]
        for tile in tiles:
            inside = ((own >= tile.start) & (own < tile.stop)).nonzero().squeeze(1)
            if len(inside):
                scores = rows @ candidates[tile].T
                best[inside] = scores[inside, own[inside] - tile.start]
        for tile in tiles:
            scores = rows @ candidates[tile].T
            ranks[start : start + chunk] += (scores > best[:, None]).sum(1)
            numbers = torch.arange(tile.start, tile.start + scores.shape[1])
            earlier = (scores == best[:, None]) & (numbers[None, :] < own[:, None])
            ranks[start : start + chunk] += earlier.sum(1)
    return ranks


def top_candidates(queries: Tensor, candidates: Tensor, most: int, chunk: int = 4096) -> Tensor:
    """Indices of the `most` best candidates of each query, best first; int64 `(q, most)`."""
    found = []
    for start in range(0, len(queries), chunk):
        scores = torch.empty(len(queries[start : start + chunk]), 0)
        numbers = torch.empty(len(scores), 0, dtype=torch.int64)
        for first in range(0, len(candidates), chunk):
            tile = queries[start : start + chunk] @ candidates[first : first + chunk].T
            scores = torch.cat([scores, tile], dim=1)
            own = torch.arange(first, first + tile.shape[1]).expand(len(tile), -1)
            numbers = torch.cat([numbers, own], dim=1)
            scores, order = scores.topk(min(most, scores.shape[1]), dim=1)
            numbers = numbers.gather(1, order)
        found.append(numbers)
    return torch.cat(found)
