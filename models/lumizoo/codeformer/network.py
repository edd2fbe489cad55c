"""CodeFormer: a transformer says which codes a degraded face consists of (card codeformer, Network).

Attributes have the names of the published checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from lumizoo.codeformer.config import CodeformerConfig
from lumizoo.codeformer.layers import ResBlock, convolution
from lumizoo.codeformer.vqgan import Vqgan, levels_of


class TransformerLayer(nn.Module):
    """Attention, then two linear layers, each after a norm and added: `(T, B, D)` to the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads)
        self.linear1 = nn.Linear(width, 2 * width)
        self.linear2 = nn.Linear(2 * width, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Positions `(T, 1, D)` are added to queries and keys, and never to values or to the tokens themselves."""
        normal = self.norm1(tokens)
        placed = normal + positions
        tokens = tokens + self.self_attn(placed, placed, normal, need_weights=False)[0]
        return tokens + self.linear2(nn.functional.gelu(self.linear1(self.norm2(tokens))))


class FeatureTransform(nn.Module):
    """Features of the encoder shift and scale those of the generator, by a weight that the user sets."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encode_enc = ResBlock(2 * channels, channels)
        self.scale, self.shift = (
            nn.Sequential(convolution(channels, channels), nn.LeakyReLU(0.2), convolution(channels, channels))
            for _ in range(2)
        )

    def forward(self, encoder: Tensor, generator: Tensor, fidelity: float) -> Tensor:
        """Features of the generator, changed; both `(B, C, H, W)`.

        Args:
            fidelity: 0 leaves them, 1 changes them in full.
        """
        joined = self.encode_enc(torch.cat((encoder, generator), 1))
        return generator + fidelity * (generator * self.scale(joined) + self.shift(joined))


def adaptive_instance_norm(content: Tensor, style: Tensor) -> Tensor:
    """Content with the mean and deviation of style, per sample and channel; both `(B, C, H, W)`, fp32."""
    (mean, deviation), (wanted_mean, wanted_deviation) = map(_statistics, (content.float(), style.float()))
    return (content - mean) / deviation * wanted_deviation + wanted_mean


def _statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(features, (2, 3), correction=1, keepdim=True)
    return mean, (variance + 1e-5).sqrt()


@dataclass(frozen=True)
class Prediction:
    """What is known of a face before any picture is made.

    Args:
        latents: of the encoder, fp32 `(B, code_width, h, w)`.
        logits: of the codes, fp32 `(B, h * w, codes)`, tokens row by row.
        features: of the encoder, one for each level, `(B, C, H / 2^level, W / 2^level)`.
    """

    latents: Tensor
    logits: Tensor
    features: list[Tensor]


class CodeFormer(Vqgan):
    """Degraded faces in [-1, 1] `(B, 3, size, size)` to clean ones."""

    def __init__(self, config: CodeformerConfig) -> None:
        super().__init__(config)
        width = config.transformer_width
        self.position_emb = nn.Parameter(torch.zeros((config.size // config.reduction) ** 2, width))
        self.feat_emb = nn.Linear(config.code_width, width)
        self.ft_layers = nn.ModuleList(
            TransformerLayer(width, config.transformer_heads) for _ in range(config.transformer_layers)
        )
        self.idx_pred_layer = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.codebook_size, bias=False))
        self.levels = {str(side): config.sides.index(side) for side in config.connections}
        widths = levels_of(config).widths
        self.fuse_convs_dict = nn.ModuleDict(
            {side: FeatureTransform(widths[level]) for side, level in self.levels.items()}
        )
        for frozen in (self.quantize, self.generator):
            frozen.requires_grad_(False)

    @property
    def last_parameter(self) -> nn.Parameter:
        """Where the losses of pictures are compared: the last shift of the last connection."""
        last = list(self.fuse_convs_dict.values())[-1]
        return last.shift[2].weight

    def predict(self, pictures: Tensor) -> Prediction:
        """Latents and logits of degraded faces."""
        latents, features = self.encoder.with_features(pictures)
        tokens = self.feat_emb(latents.flatten(2).permute(2, 0, 1))
        positions = self.position_emb[:, None]
        for layer in self.ft_layers:
            tokens = layer(tokens, positions)
        logits = self.idx_pred_layer(tokens).transpose(0, 1)
        return Prediction(latents.float(), logits.float(), features)

    def generate(self, prediction: Prediction, fidelity: float, adain: bool) -> Tensor:
        """Pictures fp32 `(B, 3, size, size)`, nominally in [-1, 1], of the likeliest codes.

        Gradient reaches the connections alone: neither encoder nor transformer learns from pictures.

        Args:
            fidelity: 0 does without the encoder's features.
            adain: give the codes the statistics of the latents, as in use and not in training.
        """
        latents = prediction.latents.detach()
        codes = self.quantize.looked_up(prediction.logits.argmax(2), latents.shape[2:]).detach()
        if adain:
            codes = adaptive_instance_norm(codes, latents)
        changes = {
            level: partial(self.fuse_convs_dict[side], prediction.features[level].detach(), fidelity=fidelity)
            for side, level in self.levels.items()
        }
        return self.generator(codes, changes if fidelity > 0 else None).float()
