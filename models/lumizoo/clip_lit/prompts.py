"""The learned pair of prompts, and what CLIP makes of it and of pictures (card clip-lit, Network: prompts)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from lumizoo.clip_lit.forms import END, START, X
from lumizoo.clip_lit.pixels import clip_pixels

SCALE = 100.0  # of cosines; written out in the published code, not CLIP's learned one


class PromptPair(nn.Module):
    """Token embeddings of two prompts: the first for backlit pictures, the second for well-lit ones.

    Args:
        context: L, tokens of a text.
        width: W of the text tower.
    """

    def __init__(self, context: int, width: int) -> None:
        super().__init__()
        self.embedding_prompt = nn.Parameter(torch.zeros(2, context, width))

    def forward(self) -> Tensor:
        """The embeddings in fp32, `(2, L, W)`.

        A copy, for under ZeRO 3 the parameter itself is empty as soon as its module's forward has ended.
        """
        return self.embedding_prompt.float().clone()


@torch.no_grad()
def initial_prompt(clip: Any, length: int) -> Tensor:
    """Embeddings `(L, W)` of the text that holds the word X so many times; both prompts start from it."""
    ids = torch.zeros(clip.context_length, dtype=torch.int64, device=clip.token_embedding.weight.device)
    ids[0], ids[1 : length + 1], ids[length + 1] = START, X, END
    embeddings: Tensor = clip.token_embedding(ids)
    return embeddings


def prompt_features(clip: Any, prompts: nn.Module, length: int) -> Tensor:
    """Normalised features of both prompts, `(2, D)`, read where the end of the initial text stands."""
    return functional.normalize(clip.encode_prompts(prompts(), length + 1), dim=-1)


def picture_features(clip: Any, pictures: Tensor) -> Tensor:
    """Normalised features `(B, D)` of RGB in [0, 1], `(B, 3, H, W)`."""
    return functional.normalize(clip.encode_image(clip_pixels(pictures, clip.side)), dim=-1)


def logits(pictures: Tensor, texts: Tensor) -> Tensor:
    """100 times the cosines of normalised features `(B, D)` of pictures and `(2, D)` of prompts, fp32 `(B, 2)`."""
    return SCALE * pictures @ texts.T


def negative_probability(scores: Tensor) -> Tensor:
    """How likely a picture is backlit, in [0, 1], `(B,)`, from its logits `(B, 2)`."""
    return scores.softmax(1)[:, 0]
