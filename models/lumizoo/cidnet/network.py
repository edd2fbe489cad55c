"""The two-branch network between the colour transform and its inverse (card cidnet, Network).

Attributes have the names of the published checkpoints: E and D are encoder and decoder, HV the branch of colours,
I the branch of intensity; in a block `ffn` is the attention and `gdfn` the gated convolutions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from lumizoo.cidnet.colour import Hvi


def scaled(features: Tensor, factor: float) -> Tensor:
    """Bilinear with corners aligned, `(B, C, H, W)` to `(B, C, factor * H, factor * W)`."""
    return functional.interpolate(features, scale_factor=factor, mode="bilinear", align_corners=True)


def depthwise(channels: int) -> nn.Conv2d:
    """A 3x3 convolution of every channel by itself."""
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)


def pointwise(inputs: int, outputs: int) -> nn.Conv2d:
    """A 1x1 convolution."""
    return nn.Conv2d(inputs, outputs, 1, bias=False)


def edge_convolution(inputs: int, outputs: int) -> nn.Sequential:
    """First and last layers: 3x3 on pictures whose border pixels are repeated."""
    return nn.Sequential(nn.ReplicationPad2d(1), nn.Conv2d(inputs, outputs, 3, bias=False))


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel, `(B, C, H, W)`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Zero mean and unit (biased) variance, then scale and shift."""
        centred = features - features.mean(1, keepdim=True)
        normal = centred * (centred.square().mean(1, keepdim=True) + 1e-6).rsqrt()
        return normal * self.weight[:, None, None] + self.bias[:, None, None]


class Down(nn.Module):
    """Convolution, then half the size: `(B, inputs, H, W)` to `(B, outputs, H / 2, W / 2)`."""

    def __init__(self, inputs: int, outputs: int, norm: bool) -> None:
        super().__init__()
        self.prelu = nn.PReLU()
        self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))
        self.norm = ChannelNorm(outputs) if norm else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """The smaller features."""
        return self.norm(self.prelu(scaled(self.down(features), 0.5)))


class Up(nn.Module):
    """Convolution and twice the size, joined with the encoder's features of that size."""

    def __init__(self, inputs: int, outputs: int, norm: bool) -> None:
        super().__init__()
        self.prelu = nn.PReLU()
        self.up_scale = nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))
        self.up = pointwise(2 * outputs, outputs)
        self.norm = ChannelNorm(outputs) if norm else nn.Identity()

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """`(B, inputs, H, W)` and `(B, outputs, 2H, 2W)` to `(B, outputs, 2H, 2W)`."""
        larger = scaled(self.up_scale(features), 2)
        return self.norm(self.prelu(self.up(torch.cat((larger, skip), 1))))


class CrossAttention(nn.Module):
    """Attention over channels, queries from one branch, keys and values from the other (CAB)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.q = pointwise(channels, channels)
        self.q_dwconv = depthwise(channels)
        self.kv = pointwise(channels, 2 * channels)
        self.kv_dwconv = depthwise(2 * channels)
        self.project_out = pointwise(channels, channels)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """Two of `(B, C, H, W)` to one; every pixel of the picture takes part in each weight."""
        keys, values = self.kv_dwconv(self.kv(other)).chunk(2, 1)
        queries = self.q_dwconv(self.q(own))
        heads = len(self.temperature)
        queries, keys, values = (one.unflatten(1, (heads, -1)).flatten(3) for one in (queries, keys, values))
        queries, keys = functional.normalize(queries, dim=-1), functional.normalize(keys, dim=-1)
        attention = (queries @ keys.transpose(-2, -1) * self.temperature).softmax(-1)
        return self.project_out((attention @ values).flatten(1, 2).unflatten(2, own.shape[2:]))


class GatedConvolutions(nn.Module):
    """Two halves of widened features, each with a gate of its own, multiplied (IEL)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = int(channels * 2.66)
        self.project_in = pointwise(channels, 2 * hidden)
        self.dwconv = depthwise(2 * hidden)
        self.dwconv1 = depthwise(hidden)
        self.dwconv2 = depthwise(hidden)
        self.project_out = pointwise(hidden, channels)

    def forward(self, features: Tensor) -> Tensor:
        """`(B, C, H, W)` to the same shape."""
        first, second = self.dwconv(self.project_in(features)).chunk(2, 1)
        first = self.dwconv1(first).tanh() + first
        second = self.dwconv2(second).tanh() + second
        return self.project_out(first * second)


class CrossBlock(nn.Module):
    """Attention to the other branch, then gated convolutions (LCA).

    Args:
        residual: whether the convolutions add to their input.  They do in the branch of intensity, and not in
            that of colours, for there the published code has no such sum.
    """

    def __init__(self, channels: int, heads: int, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.norm = ChannelNorm(channels)
        self.gdfn = GatedConvolutions(channels)
        self.ffn = CrossAttention(channels, heads)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """Two of `(B, C, H, W)` to one; one and the same norm serves all three places."""
        own = own + self.ffn(self.norm(own), self.norm(other))
        changed = self.gdfn(self.norm(own))
        return own + changed if self.residual else changed


class CIDNet(nn.Module):
    """RGB in [0, 1] `(B, 3, H, W)`, sides multiples of 8, to brighter RGB of the same shape."""

    def __init__(self, channels: tuple[int, int, int, int], heads: tuple[int, int, int, int], norm: bool) -> None:
        super().__init__()
        for branch, inputs, outputs in (("HV", 3, 2), ("I", 1, 1)):
            self.add_module(f"{branch}E_block0", edge_convolution(inputs, channels[0]))
            for level in (1, 2, 3):
                self.add_module(f"{branch}E_block{level}", Down(channels[level - 1], channels[level], norm))
                self.add_module(f"{branch}D_block{level}", Up(channels[level], channels[level - 1], norm))
            self.add_module(f"{branch}D_block0", edge_convolution(channels[0], outputs))
            for number, level in enumerate((1, 2, 3, 3, 2, 1), start=1):
                block = CrossBlock(channels[level], heads[level], residual=branch == "I")
                self.add_module(f"{branch}_LCA{number}", block)
        self.trans = Hvi()

    def forward(self, pictures: Tensor, alpha_s: float = 1.0, alpha: float = 1.0) -> Tensor:
        """Enhanced pictures, fp32 in [0, alpha]; factors as in `Hvi.inverse`."""
        return self.trans.inverse(self.enhanced_hvi(pictures), alpha_s, alpha)

    def enhanced_hvi(self, pictures: Tensor) -> Tensor:
        """The result before it goes back to RGB, fp32 `(B, 3, H, W)`; not clamped."""
        hvi = self.trans(pictures)
        start = hvi.to(self.HVE_block0[1].weight.dtype)
        i0, hv0 = self.IE_block0(start[:, 2:]), self.HVE_block0(start)
        i1, hv1 = self.IE_block1(i0), self.HVE_block1(hv0)
        i1, hv1 = self.I_LCA1(i1, hv1), self.HV_LCA1(hv1, i1)
        i2, hv2 = self.IE_block2(i1), self.HVE_block2(hv1)
        i3, hv3 = self.IE_block3(i2), self.HVE_block3(hv2)
        i2, hv2 = self.I_LCA2(i2, hv2), self.HV_LCA2(hv2, i2)  # after the third level, which does not read it
        i3, hv3 = self.I_LCA3(i3, hv3), self.HV_LCA3(hv3, i3)
        i3, hv3 = self.I_LCA4(i3, hv3), self.HV_LCA4(hv3, i3)
        i2, hv2 = self.ID_block3(i3, i2), self.HVD_block3(hv3, hv2)
        hv2 = self.HV_LCA5(hv2, i2)  # I_LCA5 is in the checkpoints, and nothing reads what it would give
        i1, hv1 = self.ID_block2(i2, i1), self.HVD_block2(hv2, hv1)
        i1, hv1 = self.I_LCA6(i1, hv1), self.HV_LCA6(hv1, i1)
        i0, hv0 = self.ID_block1(i1, i0), self.HVD_block1(hv1, hv0)
        return torch.cat((self.HVD_block0(hv0), self.ID_block0(i0)), 1).float() + hvi
