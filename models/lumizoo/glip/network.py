"""The whole network under its published names: picture and text to predictions (card glip, Network)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lumizoo.glip.config import GlipConfig
from lumizoo.glip.head import Head, Predictions
from lumizoo.glip.language import LanguageBackbone
from lumizoo.glip.pyramid import Pyramid
from lumizoo.glip.swin import Swin

MEAN, STD = (103.530, 116.280, 123.675), (57.375, 57.120, 58.395)  # blue, green, red

TABLE_ROWS = 1000
TABLE = "tunable_linear.weight"  # the card gives no name


class Glip(nn.Module):
    """Swin and its pyramid, BERT, and the head.

    Args:
        table: with vectors that are added to the text's features, one for each place of a token, 0 at first: what
            prompt tuning learns (card glip, Training).  The card says its size and not what its rows stand for; as a
            row for each place it fits prompts whose classes keep their order.
    """

    def __init__(self, config: GlipConfig, table: bool = False) -> None:
        super().__init__()
        body = Swin(
            config.swin_width,
            config.swin_depths,
            config.swin_heads,
            config.swin_window,
            config.drop_path,
            config.frozen_stages,
            config.grad_checkpointing,
        )
        self.backbone = nn.ModuleDict({"body": body, "fpn": Pyramid(body.widths[1:], config.channels)})
        self.language_backbone = LanguageBackbone(config)
        self.rpn = nn.ModuleDict({"head": Head(config)})
        self.tunable_linear: nn.Embedding | None = None
        if table:
            self.tunable_linear = nn.Embedding(max(TABLE_ROWS, config.max_tokens), config.bert_width)
            nn.init.zeros_(self.tunable_linear.weight)

    def forward(self, pictures: Tensor, tokens: Tensor, mask: Tensor) -> Predictions:
        """See `Predictions`.

        Args:
            pictures: normalised BGR `(B, 3, H, W)`, in the network's dtype.
            tokens: int64 `(B, T)`.
            mask: bool `(B, T)`, true for tokens that are no padding.
        """
        return self.read(self.levels(pictures), tokens, mask)

    def levels(self, pictures: Tensor) -> list[Tensor]:
        """P3 to P7 of pictures, each `(B, C, h, w)`; they serve for any number of texts."""
        return self.backbone["fpn"](self.backbone["body"](pictures))

    def read(self, levels: Sequence[Tensor], tokens: Tensor, mask: Tensor) -> Predictions:
        """Predictions of levels for one text of each picture."""
        hidden, embedded = self.language_backbone(tokens, mask)
        if self.tunable_linear is not None:
            added = self.tunable_linear(torch.arange(tokens.shape[1], device=tokens.device))
            hidden, embedded = hidden + added, embedded + added
        return Predictions.of(levels, self.rpn["head"](levels, hidden, embedded, mask))


def normalised(pictures: Tensor, sizes: Tensor, dtype: torch.dtype) -> Tensor:
    """What the network takes: BGR, mean and deviation of ImageNet, 0 outside each picture (card glip, Task).

    Args:
        pictures: uint8 RGB `(B, 3, H, W)`, whatever they are padded with on the right and at the bottom.
        sizes: height and width of each picture within, integers `(B, 2)`.

    Returns:
        `(B, 3, H, W)`.
    """
    mean, std = (torch.tensor(values, device=pictures.device).view(3, 1, 1) for values in (MEAN, STD))
    values = (pictures.flip(1).float() - mean) / std
    down, across = (torch.arange(size, device=pictures.device) for size in pictures.shape[2:])
    inside = (down[:, None] < sizes[:, 0, None, None]) & (across[None, :] < sizes[:, 1, None, None])
    return torch.where(inside[:, None], values, 0.0).to(dtype)
