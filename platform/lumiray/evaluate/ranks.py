"""Ranks of true partners among all candidates, in tiles: N x N scores are never stored (card clip, evaluation).

Scores are summed in fp64 and rounded to fp32.  A product in fp32 rounds differently with the size and the edges
of its tile, so that equal candidates would tie or not by where they stand, and the figures would depend on the
number of ranks that share the queries.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 1024  # queries and candidates of a tile: 13 MB, which caches hold


def partner_ranks(queries: Tensor, candidates: Tensor, partners: Tensor, chunk: int = CHUNK) -> Tensor:
    """0-based rank of each query's partner.

    The rank is the number of candidates that score strictly higher, plus those of equal score with a smaller
    index.  A partner whose score is not a number ranks last.

    Args:
        queries: fp32 `(q, D)`.
        candidates: fp32 `(N, D)`.
        partners: int64 `(q,)`, index of the partner among the candidates.

    Returns:
        int64 `(q,)`.
    """
    ranks = torch.zeros(len(queries), dtype=torch.int64)
    for part in _slices(len(queries), chunk):
        ranks[part] = _ranks_of_some(queries[part], candidates, partners[part], chunk)
    return ranks


def _ranks_of_some(rows: Tensor, candidates: Tensor, partners: Tensor, chunk: int) -> Tensor:
    # the partner's score comes out of the same tile product as the others, so that it equals itself
    own = torch.full((len(rows),), torch.nan)
    for tile in _slices(len(candidates), chunk):
        inside = _inside(partners, tile)
        if len(inside):
            own[inside] = _scores(rows, candidates[tile])[inside, partners[inside] - tile.start]
    just_below = own.nextafter(torch.tensor(-torch.inf))
    ranks = torch.zeros(len(rows), dtype=torch.int64)
    for tile in _slices(len(candidates), chunk):
        scores = _scores(rows, candidates[tile])
        bar = torch.where(partners >= tile.stop, just_below, own)  # of earlier tiles equal scores count, too
        ranks += (scores > bar[:, None]).sum(1, dtype=torch.int32)
        inside = _inside(partners, tile)
        earlier = torch.arange(tile.start, tile.stop) < partners[inside, None]
        ranks[inside] += ((scores[inside] == own[inside, None]) & earlier).sum(1, dtype=torch.int32)
    return torch.where(own.isnan(), len(candidates) - 1, ranks)


def top_candidates(queries: Tensor, candidates: Tensor, most: int, chunk: int = CHUNK) -> Tensor:
    """Indices of the `most` best candidates of each query, best first, in the order that `partner_ranks` counts.

    Returns:
        int64 `(q, min(most, N))`.
    """
    found = []
    for part in _slices(len(queries), chunk):
        rows = queries[part]
        scores, numbers = torch.empty(len(rows), 0), torch.empty(len(rows), 0, dtype=torch.int64)
        for tile in _slices(len(candidates), chunk):
            new = _scores(rows, candidates[tile])
            scores = torch.cat([scores, new.masked_fill_(new.isnan(), -torch.inf)], dim=1)
            numbers = torch.cat([numbers, torch.arange(tile.start, tile.stop).expand(len(rows), -1)], dim=1)
            kept = _highest(scores, most)
            scores, numbers = scores.gather(1, kept), numbers.gather(1, kept)
        found.append(numbers.gather(1, scores.argsort(dim=1, descending=True, stable=True)))
    return torch.cat(found) if found else torch.empty(0, min(most, len(candidates)), dtype=torch.int64)


def _highest(scores: Tensor, most: int) -> Tensor:
    """Columns of each row's `most` highest scores, ascending; among equal ones the first (topk takes any)."""
    most = min(most, scores.shape[1])
    border = scores.topk(most, dim=1).values[:, -1:]
    above, level = scores > border, scores == border
    kept = above | (level & (level.cumsum(1) <= most - above.sum(1, keepdim=True)))
    return kept.nonzero()[:, 1].view(len(scores), most)


def _scores(rows: Tensor, candidates: Tensor) -> Tensor:
    return (rows.double() @ candidates.double().T).float()


def _inside(partners: Tensor, tile: slice) -> Tensor:
    """Queries whose partner is in this tile."""
    return ((partners >= tile.start) & (partners < tile.stop)).nonzero().squeeze(1)


def _slices(count: int, chunk: int) -> Iterator[slice]:
    return (slice(start, min(count, start + chunk)) for start in range(0, count, chunk))
