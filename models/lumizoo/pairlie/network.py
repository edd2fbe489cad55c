"""Three stacks of five convolutions: projection, illumination, reflectance (card pairlie, Network).

Attributes have the names of the published checkpoints: N is the projection, L the illumination, R the reflectance.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

CONVOLUTIONS = 5  # of 3 x 3, in each stack
RECEPTIVE_FIELD = 1 + 2 * (2 * CONVOLUTIONS)  # two stacks in a row
LEAST_SIDE = 2  # of pictures: a border of one pixel is reflected


class Layers(NamedTuple):  # which ZeRO 3 finds the tensors in, as it does not in other classes
    """What a picture is taken apart into, fp32 in (0, 1).

    Args:
        illumination: L, `(B, 1, H, W)`.
        reflectance: R, `(B, 3, H, W)`.
        projected: X, `(B, 3, H, W)`, the picture without what is neither of both, such as noise.
    """

    illumination: Tensor
    reflectance: Tensor
    projected: Tensor

    def enhanced(self, exponent: float) -> Tensor:
        """The bright picture `L ** exponent * R`, in (0, 1), `(B, 3, H, W)` (card pairlie, Inference)."""
        return self.illumination**exponent * self.reflectance


class Stack(nn.Module):
    """Reflected borders, 3 x 3 convolutions with ReLU between them, and a sigmoid at the end.

    Args:
        name: of the layers in checkpoints, where it stands a second time after the stack's own.
        outputs: channels of the result.
        width: channels between the convolutions.
    """

    def __init__(self, name: str, outputs: int, width: int) -> None:
        super().__init__()
        channels = [3, *[width] * (CONVOLUTIONS - 1), outputs]
        layers: list[nn.Module] = []
        for inputs, following in pairwise(channels):
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(inputs, following, 3), nn.ReLU()]
        self.name = name
        self.add_module(name, nn.Sequential(*layers[:-1]))  # a sigmoid in place of the last ReLU

    def forward(self, pictures: Tensor) -> Tensor:
        """`(B, 3, H, W)` in [0, 1] to fp32 `(B, outputs, H, W)` in (0, 1)."""
        layers = self.get_submodule(self.name)
        # the sigmoid in fp32: an illumination that 16 bits round to 0 could not be divided by
        return layers(pictures.to(layers[1].weight.dtype)).float().sigmoid()


class PairLIE(nn.Module):
    """RGB in [0, 1] `(B, 3, H, W)`, sides of at least 2, to illumination, reflectance and projected picture.

    Args:
        width: channels between the convolutions, 64 in the published network.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.L_net = Stack("L_net", 1, width)
        self.R_net = Stack("R_net", 3, width)
        self.N_net = Stack("N_net", 3, width)

    def forward(self, pictures: Tensor) -> Layers:
        """All three; illumination and reflectance are estimated from the projected picture, not from the given one."""
        projected = self.N_net(pictures)
        return Layers(self.L_net(projected), self.R_net(projected), projected)

    def reflectance(self, pictures: Tensor) -> Tensor:
        """The reflectance alone, fp32 `(B, 3, H, W)`: no term reads the illumination of a pair's second picture."""
        return self.R_net(self.N_net(pictures))


def with_least_side(pictures: Tensor) -> Tensor:
    """Pictures `(B, C, H, W)` whose sides of one pixel are two, for a border to be reflected; others as they are."""
    height, width = pictures.shape[2:]
    return functional.pad(pictures, (0, max(0, LEAST_SIDE - width), 0, max(0, LEAST_SIDE - height)), mode="replicate")
