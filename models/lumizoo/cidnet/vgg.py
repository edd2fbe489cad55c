"""VGG-19's feature maps before their ReLU, from torchvision's file, never from random weights (card cidnet, Losses)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lumiray.errors import UserError
from lumizoo.blocks.published import load_strictly, read_state, whole_path

LAYERS = ("conv1_2", "conv2_2", "conv3_4", "conv4_4")
OPTION = "vgg-weights"
BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))  # convolutions and channels between two poolings


class Vgg19(nn.Module):
    """The convolutions up to the last layer that is wanted, named as in torchvision.

    Args:
        layers: names such as `conv3_4`, the fourth convolution of the third block.
    """

    def __init__(self, layers: Sequence[str] = LAYERS) -> None:
        super().__init__()
        named: dict[str, int] = {}
        parts: list[nn.Module] = []
        channels = 3
        for block, (count, width) in enumerate(BLOCKS, start=1):
            for number in range(1, count + 1):
                named[f"conv{block}_{number}"] = len(parts)
                parts += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            parts.append(nn.MaxPool2d(2, 2))
        self.wanted = frozenset(named[name] for name in layers)
        self.features = nn.Sequential(*parts[: max(self.wanted) + 1])
        self.register_buffer("mean", torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """`(B, 3, H, W)` in [-1, 1] to one `(B, C, h, w)` for each layer, shallow ones first."""
        hidden = ((pictures + 1) / 2 - self.mean) / self.std
        found = []
        for number, layer in enumerate(self.features):
            hidden = layer(hidden)
            if number in self.wanted:
                found.append(hidden)
        return found


def vgg_file(path: str | None) -> str:
    """The absolute path of VGG-19's weights.

    Raises:
        UserError: none is given, or it is not there; says where to get it and how to do without.
    """
    if path is None:
        raise UserError(
            f"--{OPTION} is missing: the perceptual loss compares features of VGG-19. Give the path of "
            "torchvision's VGG19_Weights.IMAGENET1K_V1 (vgg19-dcbb9e9d.pth), or train without that loss: "
            "--perceptual-weight 0."
        )
    return str(whole_path(path, OPTION))


def load_vgg(path: str) -> Vgg19:
    """The frozen network with the weights of a file; layers behind the last wanted one are left out.

    Raises:
        UserError: the file is missing, holds more than tensors, or is not a VGG-19.
    """
    network = Vgg19()
    state = read_state(path, OPTION)
    own = network.state_dict()
    load_strictly(network, {name: value for name, value in state.items() if name in own}, path, OPTION)
    return network
