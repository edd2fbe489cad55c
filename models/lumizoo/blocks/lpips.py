"""LPIPS 0.1: how far two pictures are from each other in the features of VGG-16, by published linear weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lumiray.errors import UserError
from lumizoo.blocks.published import load_strictly, read_state, whole_path
from lumizoo.blocks.vgg import WIDTHS, Vgg, load_vgg

LEAST_SIDE = 16  # pixels, of which the last layer sees one
LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
VGG_OPTION, LPIPS_OPTION = "vgg-weights", "lpips-weights"


class Lpips(nn.Module):
    """Frozen; pictures are not resized, and nothing is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.vgg = Vgg(16, LAYERS)
        self.linear = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in WIDTHS)
        self.register_buffer("shift", torch.tensor(SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Distances `(B,)` of pictures `(B, 3, H, W)` in [-1, 1], fp32."""
        features = [self.vgg((pictures - self.shift) / self.scale) for pictures in (one, other)]
        distances = []
        for linear, *pair in zip(self.linear, *features, strict=True):
            first, second = (maps / (torch.linalg.vector_norm(maps, dim=1, keepdim=True) + 1e-10) for maps in pair)
            distances.append(linear((first - second).square()).mean((1, 2, 3)))
        return torch.stack(distances).sum(0)


def lpips_files(vgg: str | None, linear: str | None, how_to_do_without: str) -> tuple[str, str]:
    """The absolute paths of both files.

    Args:
        how_to_do_without: options that leave the loss out.

    Raises:
        UserError: one is not given, or not there; says where to get it and how to do without.
    """
    sources = {
        VGG_OPTION: "torchvision's VGG16_Weights.IMAGENET1K_V1 (vgg16-397923af.pth)",
        LPIPS_OPTION: "the linear layers of LPIPS 0.1 for VGG-16 (lpips/weights/v0.1/vgg.pth of the package lpips)",
    }
    for (option, source), path in zip(sources.items(), (vgg, linear), strict=True):
        if path is None:
            raise UserError(
                f"--{option} is missing: the perceptual loss compares features of VGG-16 by learnt weights. Give the "
                f"path of {source}, or train without that loss: {how_to_do_without}."
            )
    return str(whole_path(vgg, VGG_OPTION)), str(whole_path(linear, LPIPS_OPTION))


def load_lpips(vgg: str, linear: str, options: tuple[str, str] = (VGG_OPTION, LPIPS_OPTION)) -> Lpips:
    """The network with the weights of torchvision's file and of that of the linear layers, `lin0.model.1.weight`...

    Args:
        options: that named the files, for messages.

    Raises:
        UserError: a file is missing, holds more than tensors, or is another network's.
    """
    network = Lpips()
    load_vgg(network.vgg, vgg, options[0])
    layers = nn.ModuleDict({f"lin{number}": _Named(layer) for number, layer in enumerate(network.linear)})
    load_strictly(layers, read_state(linear, options[1]), linear, options[1])
    return network


def lpips_of_levels(vgg: str, linear: str, options: tuple[str, str]) -> Callable[[Tensor, Tensor], Tensor]:
    """The measure of pictures as levels in [0, 255], `(B, 3, H, W)` each, to fp64 `(B,)`; lower is better.

    Args:
        options: that named the files, for messages.

    Raises:
        UserError: as `load_lpips`; when called, pictures are too small for the layers.
    """
    network = load_lpips(vgg, linear, options)

    def measured(restored: Tensor, reference: Tensor) -> Tensor:
        if min(reference.shape[2:]) < LEAST_SIDE:
            raise UserError(
                f"LPIPS needs pictures of at least {LEAST_SIDE} x {LEAST_SIDE} pixels, and one of the set has "
                f"{reference.shape[3]} x {reference.shape[2]}: leave LPIPS out."
            )
        network.to(reference.device)
        return network(*(levels.float() / 127.5 - 1 for levels in (restored, reference))).double()

    return measured


class _Named(nn.Module):
    """A linear layer under the name of the published file, behind a dropout that is never on."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Identity(), layer)
