"""The tower and the layers that read it: boxes, centreness, alignment of places with words (card glip, Network)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lumizoo.glip.anchors import STRIDES
from lumizoo.glip.config import GlipConfig
from lumizoo.glip.dynamic_head import DynamicConv
from lumizoo.glip.fusion import Fusion, flat
from lumizoo.glip.language import CLAMP, TextLayer

CLASS_LOGITS = 80  # of a layer that every checkpoint has and nothing reads
PRIOR = 0.01  # probability that a fresh network gives to any word at any place

Found = tuple[Tensor, Tensor, Tensor]  # boxes, centreness, alignment, as in `Predictions`


@dataclass(frozen=True)
class Predictions:
    """What the network says of A anchors, level after level, row by row.

    Args:
        sizes: (h, w) of the levels.
        boxes: box code, fp32 `(B, A, 4)`.
        centreness: logits, fp32 `(B, A)`.
        alignment: logits of each token, fp32 `(B, A, T)`.
    """

    sizes: tuple[tuple[int, int], ...]
    boxes: Tensor
    centreness: Tensor
    alignment: Tensor

    @classmethod
    def of(cls, levels: Sequence[Tensor], found: Found) -> Predictions:
        """What the head found in levels `(B, C, h, w)`."""
        return cls(tuple((int(one.shape[2]), int(one.shape[3])) for one in levels), *found)


class Tower(nn.ModuleList):
    """Blocks of fusion, text layer and dynamic convolution, or of the last alone; one flat list as in checkpoints."""

    def __init__(self, config: GlipConfig) -> None:
        parts: list[nn.Module] = []
        for _ in range(config.blocks):
            if config.fusion:
                width, heads = config.fusion_width, config.fusion_heads
                parts.append(Fusion(config.channels, config.bert_width, width, heads, 1 / config.blocks))
                parts.append(TextLayer(config))
            parts.append(DynamicConv(config.channels, config.norm_groups))
        super().__init__(parts)
        self.recompute = config.grad_checkpointing

    def forward(self, levels: Sequence[Tensor], text: Tensor, mask: Tensor) -> tuple[list[Tensor], Tensor]:
        """Levels `(B, C, h, w)` and text `(B, T, D)` to the same shapes; `mask` is bool `(B, T)`."""
        current = tuple(levels)
        for part in self:
            if isinstance(part, Fusion):
                text, *fused = self._run(part, text, mask, *current)
                current = tuple(fused)
            elif isinstance(part, TextLayer):
                text = self._run(part, text, mask)
            else:
                current = self._run(part, *current)
        return list(current), text

    def _run(self, part: nn.Module, *given: Tensor) -> Any:
        if self.recompute and self.training and torch.is_grad_enabled():
            return checkpoint(part, *given, use_reentrant=False)
        return part(*given)


class Scale(nn.Module):
    """A learnt factor of one level's box code."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, values: Tensor) -> Tensor:
        """Values of any shape, multiplied."""
        return values * self.scale


class Head(nn.Module):
    """Pyramid and text to predictions.

    Its result is a plain tuple: of another kind ZeRO 3 would not see the tensors within, and would not bring the head's
    own parameters back for the backward pass.
    """

    def __init__(self, config: GlipConfig) -> None:
        super().__init__()
        channels, width = config.channels, config.bert_width
        self.fusion = config.fusion
        self.dyhead_tower = Tower(config)
        self.cls_logits = nn.Conv2d(channels, CLASS_LOGITS, 1)
        self.bbox_pred = nn.Conv2d(channels, 4, 1)
        self.centerness = nn.Conv2d(channels, 1, 1)
        for layer in (self.cls_logits, self.bbox_pred, self.centerness):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        self.cls_logits.requires_grad_(False)
        self.dot_product_projection_text = nn.Linear(width, channels)
        nn.init.zeros_(self.dot_product_projection_text.bias)
        self.log_scale = nn.Parameter(torch.zeros(1))
        self.bias_lang = nn.Parameter(torch.zeros(width))
        self.bias0 = nn.Parameter(torch.full((1,), -math.log((1 - PRIOR) / PRIOR)))
        self.scales = nn.ModuleList(Scale() for _ in STRIDES)

    def forward(self, levels: Sequence[Tensor], hidden: Tensor, embedded: Tensor, mask: Tensor) -> Found:
        """See `Found`.

        Args:
            levels: P3 to P7, each `(B, C, h, w)`.
            hidden, embedded: features of the text with padding as it is, and 0 there, `(B, T, D)`.
            mask: bool `(B, T)`, true for tokens that are no padding.
        """
        maps, text = self.dyhead_tower(levels, hidden, mask)
        return self.read(maps, text if self.fusion else embedded)

    def read(self, maps: Sequence[Tensor], text: Tensor) -> Found:
        """The layers behind the tower, on its levels `(B, C, h, w)` and text `(B, T, D)`."""
        boxes = [scale(self.bbox_pred(one)) for scale, one in zip(self.scales, maps, strict=True)]
        centreness = flat([self.centerness(one) for one in maps])[..., 0]
        return flat(boxes).float(), centreness.float(), self.aligned(flat(maps), text)

    def aligned(self, places: Tensor, text: Tensor) -> Tensor:
        """Logits fp32 `(B, A, T)` of places `(B, A, C)` and text `(B, T, D)`."""
        words = functional.normalize(text.float(), dim=-1, eps=1e-12)
        keys = self.dot_product_projection_text((words / 2).to(text.dtype)).float()
        bias = words @ self.bias_lang.float() + self.bias0.float()
        logits = places.float() @ keys.transpose(1, 2) / self.log_scale.float().exp()
        return (logits + bias[:, None, :]).clamp(-CLAMP, CLAMP)
