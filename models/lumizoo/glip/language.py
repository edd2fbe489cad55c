"""BERT as the text encoder, and one of its layers with clamped scores for the tower (card glip, Network).

The encoder is that of transformers, built from sizes; nothing is fetched.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from transformers import BertConfig, BertModel
from transformers.models.bert.modeling_bert import BertIntermediate, BertOutput, BertSelfOutput

from lumizoo.glip.config import GlipConfig

CLAMP = 50_000.0


def bert_config(config: GlipConfig) -> BertConfig:
    """The sizes in BERT's own terms."""
    found = BertConfig(
        vocab_size=config.vocabulary_size,
        hidden_size=config.bert_width,
        num_hidden_layers=config.bert_layers,
        num_attention_heads=config.bert_heads,
        intermediate_size=config.bert_hidden,
        max_position_embeddings=config.bert_positions,
    )
    found._attn_implementation = "sdpa"
    return found


class LanguageBackbone(nn.Module):
    """Token ids to features, without a pooler."""

    def __init__(self, config: GlipConfig) -> None:
        super().__init__()
        model = BertModel(bert_config(config), add_pooling_layer=False)
        if config.grad_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        self.body = nn.ModuleDict({"model": model})

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the last layer, and these with 0 on padding.

        Args:
            tokens: int64 `(B, T)`.
            mask: bool `(B, T)`, true for tokens that are no padding.

        Returns:
            two of `(B, T, D)`.
        """
        # four dimensions: a mask of two is looked at by value, which waits for the GPU
        length = tokens.shape[1]
        seen = mask[:, None, None, :].expand(-1, 1, length, -1)
        hidden = self.body["model"](input_ids=tokens, attention_mask=seen).last_hidden_state
        return hidden, hidden * mask[..., None].to(hidden.dtype)


class ClampedSelfAttention(nn.Module):
    """BERT's self attention, scores clamped before padding is masked, in fp32."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads, self.rate = config.num_attention_heads, config.attention_probs_dropout_prob
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """`(B, T, D)` and bool `(B, T)` to `(B, T, D)`."""
        query, key, value = (
            project(text).unflatten(-1, (self.heads, -1)).transpose(1, 2).float()
            for project in (self.query, self.key, self.value)
        )
        scores = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).clamp(-CLAMP, CLAMP)
        padding = torch.where(mask, 0.0, torch.finfo(torch.float32).min)[:, None, None, :]
        share = functional.dropout((scores + padding).softmax(-1), self.rate, self.training)
        return (share @ value).transpose(1, 2).flatten(2).to(text.dtype)


class ClampedAttention(nn.Module):
    """Self attention with its projection, sum and norm."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.self = ClampedSelfAttention(config)
        self.output = BertSelfOutput(config)

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """`(B, T, D)` and bool `(B, T)` to `(B, T, D)`."""
        return self.output(self.self(text, mask), text)


class TextLayer(nn.Module):
    """One post-norm BERT layer of the tower."""

    def __init__(self, config: GlipConfig) -> None:
        super().__init__()
        own = bert_config(config)
        self.attention = ClampedAttention(own)
        self.intermediate = BertIntermediate(own)
        self.output = BertOutput(own)
        self.apply(_start)

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """`(B, T, D)` and bool `(B, T)` to `(B, T, D)`."""
        text = self.attention(text, mask)
        return self.output(self.intermediate(text), text)


def _start(module: nn.Module) -> None:
    """Initial values as BERT has them."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
