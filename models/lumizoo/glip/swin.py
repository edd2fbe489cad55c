"""Swin transformer that keeps three maps for a pyramid, named as in the published checkpoints (card glip, Network)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

PATCH = 4
MLP_RATIO = 4
APART = -100.0  # added to the scores of positions that a shifted window brings together from two sides of the picture


class DropPath(nn.Module):
    """Leaves out a branch for some samples of the batch in training, and scales it for the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """`(B, ...)` to the same shape."""
        if not (self.training and self.rate):
            return branch
        kept = torch.rand(len(branch), *[1] * (branch.ndim - 1), device=branch.device) >= self.rate
        return branch * (kept / (1 - self.rate)).to(branch.dtype)


class PatchEmbed(nn.Module):
    """Patches of 4 x 4 pixels to channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(width)

    def forward(self, pictures: Tensor) -> Tensor:
        """`(B, 3, H, W)`, padded with 0 to multiples of 4, to `(B, H / 4, W / 4, C)`."""
        height, width = pictures.shape[2:]
        pictures = functional.pad(pictures, (0, -width % PATCH, 0, -height % PATCH))
        return self.norm(self.proj(pictures).permute(0, 2, 3, 1))


class WindowAttention(nn.Module):
    """Self attention within windows, with a learnt bias for each relative position."""

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_positions(window))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, windows: Tensor, apart: Tensor | None) -> Tensor:
        """`(B * n, w * w, C)` to the same shape.

        Args:
            apart: `(n, w * w, w * w)`, what is added to the scores of each of a picture's n windows.
        """
        count, length, width = windows.shape
        query, key, value = self.qkv(windows).view(count, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[None]
        if apart is not None:
            bias = bias + apart.to(bias.dtype)[:, None]
            bias = bias.repeat(count // len(apart), 1, 1, 1)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(mixed.transpose(1, 2).reshape(count, length, width))


def relative_positions(window: int) -> Tensor:
    """Row of the table of biases for each pair of positions in a window, int64 `(w * w, w * w)`."""
    place = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
    down, across = place[:, :, None] - place[:, None, :] + window - 1
    return down * (2 * window - 1) + across


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """`(..., C)` to the same shape."""
        return self.fc2(functional.gelu(self.fc1(hidden)))


class Block(nn.Module):
    """Attention within windows, which are shifted in every other block, then an MLP."""

    def __init__(self, width: int, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)
        self.drop_path = DropPath(drop_path)

    def forward(self, hidden: Tensor) -> Tensor:
        """`(B, H, W, C)` to the same shape."""
        hidden = hidden + self.drop_path(self._attended(self.norm1(hidden)))
        return hidden + self.drop_path(self.mlp(self.norm2(hidden)))

    def _attended(self, hidden: Tensor) -> Tensor:
        height, width = hidden.shape[1:3]
        hidden = functional.pad(hidden, (0, 0, 0, -width % self.window, 0, -height % self.window))
        padded = hidden.shape[1:3]
        apart = None
        if self.shift:
            hidden = hidden.roll((-self.shift, -self.shift), (1, 2))
            apart = regions_apart(padded, self.window, self.shift, hidden.device)
        windows = self.attn(cut(hidden, self.window), apart)
        hidden = joined(windows, self.window, padded)
        if self.shift:
            hidden = hidden.roll((self.shift, self.shift), (1, 2))
        return hidden[:, :height, :width]


def cut(hidden: Tensor, window: int) -> Tensor:
    """`(B, H, W, C)` to windows `(B * n, w * w, C)`."""
    count, height, width, channels = hidden.shape
    grid = hidden.view(count, height // window, window, width // window, window, channels)
    return grid.transpose(2, 3).reshape(-1, window * window, channels)


def joined(windows: Tensor, window: int, size: Sequence[int]) -> Tensor:
    """Windows `(B * n, w * w, C)` to `(B, H, W, C)` of that size."""
    height, width = size
    grid = windows.view(-1, height // window, width // window, window, window, windows.shape[-1])
    return grid.transpose(2, 3).reshape(len(grid), height, width, -1)


def regions_apart(size: Sequence[int], window: int, shift: int, device: torch.device) -> Tensor:
    """-100 between positions of a window that do not lie beside each other in the picture, else 0: `(n, w^2, w^2)`."""
    bands = []
    for side in size:
        place = torch.arange(side, device=device)
        bands.append((place >= side - window).long() + (place >= side - shift).long())
    region = cut((3 * bands[0][:, None] + bands[1][None, :])[None, :, :, None], window)[..., 0]
    return (region[:, :, None] != region[:, None, :]) * APART


class Merging(nn.Module):
    """Squares of 2 x 2 positions become one of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """`(B, H, W, C)`, padded with 0 to even sides, to `(B, H / 2, W / 2, 2 C)`."""
        hidden = functional.pad(hidden, (0, 0, 0, hidden.shape[2] % 2, 0, hidden.shape[1] % 2))
        four = [hidden[:, down::2, across::2] for across in (0, 1) for down in (0, 1)]
        return self.reduction(self.norm(torch.cat(four, -1)))


class SwinStage(nn.Module):
    """Blocks of one width, and what leads to the next stage."""

    def __init__(self, width: int, heads: int, window: int, drop_paths: Sequence[float], last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, heads, window, window // 2 if number % 2 else 0, rate)
            for number, rate in enumerate(drop_paths)
        )
        self.downsample = None if last else Merging(width)

    def forward(self, hidden: Tensor, recompute: bool) -> tuple[Tensor, Tensor]:
        """`(B, H, W, C)` to its result of that shape, and to what the next stage starts from."""
        for block in self.blocks:
            if recompute and torch.is_grad_enabled():
                hidden = checkpoint(block, hidden, use_reentrant=False)
            else:
                hidden = block(hidden)
        return hidden, hidden if self.downsample is None else self.downsample(hidden)


class Swin(nn.Module):
    """Pictures to maps of strides 8, 16 and 32.

    Args:
        frozen_stages: this many first stages, and the patch embedding, are not trained; 0 trains all.
        recompute: blocks are computed again in the backward pass.
    """

    def __init__(
        self,
        width: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: int,
        drop_path: float,
        frozen_stages: int,
        recompute: bool,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.widths = [width * 2**stage for stage in range(len(depths))]
        self.patch_embed = PatchEmbed(width)
        total = sum(depths)
        rates = [drop_path * number / max(1, total - 1) for number in range(total)]
        self.layers = nn.ModuleList()
        for stage, depth in enumerate(depths):
            own, rates = rates[:depth], rates[depth:]
            last = stage == len(depths) - 1
            self.layers.append(SwinStage(self.widths[stage], heads[stage], window, own, last))
        for stage in range(1, len(depths)):
            self.add_module(f"norm{stage}", nn.LayerNorm(self.widths[stage]))
        self.apply(_start)
        if frozen_stages:
            for module in (self.patch_embed, *self.layers[:frozen_stages]):
                module.requires_grad_(False)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """`(B, 3, H, W)` to the results of stages 2, 3, 4, normed, each `(B, C, h, w)`."""
        hidden = self.patch_embed(pictures)
        found = []
        for number, stage in enumerate(self.layers):
            result, hidden = stage(hidden, self.recompute and self.training)
            if number:
                found.append(self.get_submodule(f"norm{number}")(result).permute(0, 3, 1, 2).contiguous())
        return found


def _start(module: nn.Module) -> None:
    """Initial values of linear layers as in the classifier that Swin was published as."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
