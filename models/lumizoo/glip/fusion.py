"""Picture and text look at each other: one score matrix, read in both directions (card glip, Network: Fusion block).

The base of the residual is the normalised tensor, and padding of the text takes part as a query: published weights
were trained so.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from lumizoo.glip.language import CLAMP

MASKED, SEEN = -9e15, 1.0  # the published code adds the mask itself, so that unmasked scores are one higher
DROPOUT = 0.1


class BiAttention(nn.Module):
    """Both directions of the attention, from normalised picture and text.

    Args:
        visual, text: their widths.
        width: of all heads together.
    """

    def __init__(self, visual: int, text: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.v_proj, self.values_v_proj = nn.Linear(visual, width), nn.Linear(visual, width)
        self.l_proj, self.values_l_proj = nn.Linear(text, width), nn.Linear(text, width)
        self.out_v_proj, self.out_l_proj = nn.Linear(width, visual), nn.Linear(width, text)
        for layer in self.children():
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, visual: Tensor, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What is added to each: `(B, A, C)` and `(B, T, D)`.

        Args:
            visual: `(B, A, C)`, all levels in one row.
            text: `(B, T, D)`.
            mask: bool `(B, T)`, true for tokens that are no padding.
        """
        query, key = self._split(self.v_proj(visual)), self._split(self.l_proj(text))
        scores = (query * query.shape[-1] ** -0.5 @ key.transpose(2, 3)).clamp(-CLAMP, CLAMP)
        turned = scores.transpose(2, 3)
        turned = (turned - turned.amax(-1, keepdim=True)).clamp(-CLAMP, CLAMP)
        added = torch.where(mask, SEEN, MASKED)[:, None, None, :]
        to_visual = self._mixed(scores + added, self._split(self.values_l_proj(text)))
        to_text = self._mixed(turned, self._split(self.values_v_proj(visual)))
        return self.out_v_proj(to_visual.to(visual.dtype)), self.out_l_proj(to_text.to(text.dtype))

    def _split(self, projected: Tensor) -> Tensor:
        """`(B, n, width)` to fp32 `(B, heads, n, width / heads)`: scores must bear the clamp, which fp16 would not."""
        return projected.unflatten(-1, (self.heads, -1)).transpose(1, 2).float()

    def _mixed(self, scores: Tensor, values: Tensor) -> Tensor:
        share = functional.dropout(scores.softmax(-1), DROPOUT, self.training)
        return (share @ values).transpose(1, 2).flatten(2)


class BiAttentionBlock(nn.Module):
    """Norms, both directions, and learnt factors of what they add.

    Args:
        start: of these factors.
    """

    def __init__(self, visual: int, text: int, width: int, heads: int, start: float) -> None:
        super().__init__()
        self.layer_norm_v, self.layer_norm_l = nn.LayerNorm(visual), nn.LayerNorm(text)
        self.attn = BiAttention(visual, text, width, heads)
        self.gamma_v = nn.Parameter(torch.full((visual,), start))
        self.gamma_l = nn.Parameter(torch.full((text,), start))

    def forward(self, visual: Tensor, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, A, C)` and `(B, T, D)` to the same shapes; `mask` is bool `(B, T)`."""
        visual, text = self.layer_norm_v(visual), self.layer_norm_l(text)
        to_visual, to_text = self.attn(visual, text, mask)
        return visual + self.gamma_v * to_visual, text + self.gamma_l * to_text


class Fusion(nn.Module):
    """The block on five maps."""

    def __init__(self, visual: int, text: int, width: int, heads: int, start: float) -> None:
        super().__init__()
        self.b_attn = BiAttentionBlock(visual, text, width, heads, start)

    def forward(self, text: Tensor, mask: Tensor, *levels: Tensor) -> tuple[Tensor, ...]:
        """Text `(B, T, D)`, bool `(B, T)` and levels `(B, C, h, w)` to text and levels of the same shapes."""
        rows = flat(levels)
        rows, text = self.b_attn(rows, text, mask)
        return text, *unflat(rows, [level.shape[2:] for level in levels])


def flat(levels: Sequence[Tensor]) -> Tensor:
    """Levels `(B, C, h, w)` to one row of positions `(B, A, C)`, level by level, row by row."""
    return torch.cat([level.flatten(2) for level in levels], 2).transpose(1, 2)


def unflat(rows: Tensor, sizes: Sequence[torch.Size]) -> list[Tensor]:
    """The inverse of `flat`."""
    parts = rows.split([height * width for height, width in sizes], 1)
    return [part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]
