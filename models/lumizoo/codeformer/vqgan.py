"""The autoencoder of stage vqgan: encoder, codebook, generator (card codeformer, Network).

Attributes have the names of the published checkpoints.  A level with attention is a place in the list of blocks,
whatever the size of the picture is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lumizoo.codeformer.config import CodeformerConfig
from lumizoo.codeformer.layers import AttnBlock, Downsample, ResBlock, Upsample, convolution, group_norm
from lumizoo.codeformer.losses import codebook_loss, perplexity


@dataclass(frozen=True)
class Levels:
    """How encoder and generator are made of blocks.

    Args:
        widths: channels of every level, the largest features first.
        attention: which levels have attention after each of their ResBlocks.
        blocks: ResBlocks of a level.
    """

    widths: tuple[int, ...]
    attention: frozenset[int]
    blocks: int = 2


def levels_of(config: CodeformerConfig) -> Levels:
    """The published levels: attention at the coarsest."""
    widths = tuple(config.channels * factor for factor in config.multipliers)
    return Levels(widths, frozenset({len(widths) - 1}))


class Encoder(nn.Module):
    """Pictures in [-1, 1] `(B, 3, H, W)` to latents `(B, code_width, h, w)`, sides halved between levels.

    Args:
        channels: after the first convolution.
    """

    def __init__(self, channels: int, levels: Levels, code_width: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = [convolution(3, channels)]
        self.taps: list[int] = []  # the last ResBlock of every level, whose result is handed to the generator
        inputs = channels
        for level, width in enumerate(levels.widths):
            for _ in range(levels.blocks):
                blocks.append(ResBlock(inputs, width))
                tap, inputs = len(blocks) - 1, width
                blocks += [AttnBlock(width)] if level in levels.attention else []
            self.taps.append(tap)
            blocks += [Downsample(width)] if level < len(levels.widths) - 1 else []
        blocks += [ResBlock(inputs, inputs), AttnBlock(inputs), ResBlock(inputs, inputs)]
        blocks += [group_norm(inputs), convolution(inputs, code_width)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, pictures: Tensor) -> Tensor:
        """The latents."""
        return self.with_features(pictures)[0]

    def with_features(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The latents, and the features of every level `(B, C, H / 2^level, W / 2^level)`."""
        hidden = pictures.to(self.blocks[0].weight.dtype)
        features = []
        for number, block in enumerate(self.blocks):
            hidden = block(hidden)
            if number in self.taps:
                features.append(hidden)
        return hidden, features


class Generator(nn.Module):
    """Codes `(B, code_width, h, w)` to pictures, nominally in [-1, 1] and not clamped."""

    def __init__(self, levels: Levels, code_width: int) -> None:
        super().__init__()
        widths = levels.widths
        inputs = widths[-1]
        blocks: list[nn.Module] = [convolution(code_width, inputs)]
        blocks += [ResBlock(inputs, inputs), AttnBlock(inputs), ResBlock(inputs, inputs)]
        # after which block a level takes what the encoder hands over: its first ResBlock, of the coarsest its last
        self.taps = [0] * len(widths)
        for level, width in reversed([*enumerate(widths)]):
            for number in range(levels.blocks):
                blocks.append(ResBlock(inputs, width))
                if number == 0 or level == len(widths) - 1:
                    self.taps[level] = len(blocks) - 1
                inputs = width
                blocks += [AttnBlock(width)] if level in levels.attention else []
            blocks += [Upsample(width)] if level else []
        blocks += [group_norm(inputs), convolution(inputs, 3)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, codes: Tensor, changes: Mapping[int, Callable[[Tensor], Tensor]] | None = None) -> Tensor:
        """Pictures `(B, 3, H, W)`.

        Args:
            changes: level -> what becomes of the features at its tap.
        """
        after = {self.taps[level]: change for level, change in (changes or {}).items()}
        hidden = codes.to(self.blocks[0].weight.dtype)
        for number, block in enumerate(self.blocks):
            hidden = block(hidden)
            if number in after:
                hidden = after[number](hidden)
        return hidden


@dataclass(frozen=True)
class Quantized:
    """Latents on the grid of the codebook.

    Args:
        codes: `(B, C, h, w)`, the nearest codes; their gradient goes to the latents as if nothing had happened.
        indices: int64 `(B, h * w)`, numbers of these codes, row by row.
        loss: the codebook loss, a scalar.
        perplexity: between 1 (one code for everything) and the number of codes, without gradient.
    """

    codes: Tensor
    indices: Tensor
    loss: Tensor
    perplexity: Tensor


class Quantizer(nn.Module):
    """The codebook, `embedding.weight` `(codes, C)`.  Distances are computed in fp32: 16 bits confuse near codes."""

    def __init__(self, codebook_size: int, code_width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codebook_size, code_width)
        nn.init.uniform_(self.embedding.weight, -1 / codebook_size, 1 / codebook_size)

    @torch.no_grad()
    def nearest(self, latents: Tensor) -> Tensor:
        """Numbers of the nearest codes, int64 `(B, h * w)`, of latents `(B, C, h, w)`."""
        tokens = latents.float().flatten(2).transpose(1, 2)
        codebook = self.embedding.weight.float()
        squares = tokens.square().sum(2, keepdim=True) + codebook.square().sum(1)
        return (squares - 2 * tokens @ codebook.T).argmin(2)

    def looked_up(self, indices: Tensor, size: torch.Size) -> Tensor:
        """Codes `(B, C, h, w)` of numbers `(B, h * w)`.

        Args:
            size: (h, w).
        """
        return self.embedding(indices).transpose(1, 2).unflatten(2, size)

    def forward(self, latents: Tensor) -> Quantized:
        """The nearest codes of latents `(B, C, h, w)`, and how far they are."""
        latents = latents.float()
        indices = self.nearest(latents)
        codes = self.looked_up(indices, latents.shape[2:]).float()
        loss = codebook_loss(latents, codes)
        through = latents + (codes - latents).detach()
        return Quantized(through, indices, loss, perplexity(indices, self.embedding.num_embeddings))


class Vqgan(nn.Module):
    """Pictures in [-1, 1] to pictures, through the codebook."""

    def __init__(self, config: CodeformerConfig, levels: Levels | None = None) -> None:
        super().__init__()
        levels = levels or levels_of(config)
        self.encoder = Encoder(config.channels, levels, config.code_width)
        self.quantize = Quantizer(config.codebook_size, config.code_width)
        self.generator = Generator(levels, config.code_width)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Quantized]:
        """`(B, 3, H, W)` to fp32 pictures whose sides are rounded down to `config.reduction`, and their codes."""
        quantized = self.quantize(self.encoder(pictures))
        return self.generator(quantized.codes).float(), quantized


class Tokenizer(nn.Module):
    """Encoder and codebook as stage vqgan left them: which codes a clean face consists of.  Never trained."""

    def __init__(self, config: CodeformerConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config.channels, levels_of(config), config.code_width)
        self.quantize = Quantizer(config.codebook_size, config.code_width)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures in [-1, 1] `(B, 3, H, W)` to int64 `(B, h * w)`."""
        return self.quantize.nearest(self.encoder(pictures))
