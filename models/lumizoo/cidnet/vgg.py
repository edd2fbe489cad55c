"""VGG-19's feature maps before their ReLU, from torchvision's file (card cidnet, Losses)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lumiray.errors import UserError
from lumizoo.blocks import vgg
from lumizoo.blocks.published import whole_path

LAYERS = ("conv1_2", "conv2_2", "conv3_4", "conv4_4")
OPTION = "vgg-weights"


class Vgg19(vgg.Vgg):
    """The network behind ImageNet's normalisation, which takes pictures in [-1, 1].

    Args:
        layers: names such as `conv3_4`, the fourth convolution of the third block.
    """

    def __init__(self, layers: Sequence[str] = LAYERS) -> None:
        super().__init__(19, layers)
        self.register_buffer("mean", torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1), persistent=False)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """`(B, 3, H, W)` in [-1, 1] to one `(B, C, h, w)` for each layer, shallow ones first."""
        return super().forward(((pictures + 1) / 2 - self.mean) / self.std)


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
    vgg.load_vgg(network, path, OPTION)
    return network
