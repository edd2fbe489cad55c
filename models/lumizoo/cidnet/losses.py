"""What an enhanced picture is compared by, in RGB and in HVI alike (card cidnet, Losses)."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from lumiray.system import Term
from lumizoo.cidnet.config import CidnetConfig

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2
BLUR = (0.05, 0.25, 0.4, 0.25, 0.05)


def filtered(maps: Tensor, kernel: Tensor) -> Tensor:
    """Filter each channel of `(B, C, H, W)` with the outer product of a kernel `(n,)` with itself, without padding."""
    channels = maps.shape[1]
    rows = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    maps = functional.conv2d(maps, rows, groups=channels)
    return functional.conv2d(maps, rows.transpose(2, 3), groups=channels)


def ssim(output: Tensor, reference: Tensor) -> Tensor:
    """Mean structural similarity of `(B, C, H, W)`, zeros around the pictures; a scalar, at most 1."""
    place = torch.arange(SSIM_WINDOW, dtype=output.dtype, device=output.device) - SSIM_WINDOW // 2
    kernel = (-place.square() / (2 * SSIM_SIGMA**2)).exp()
    maps = torch.cat((output, reference, output**2, reference**2, output * reference), 1)
    maps = filtered(functional.pad(maps, [SSIM_WINDOW // 2] * 4), kernel / kernel.sum())
    mean_x, mean_y, square_x, square_y, product = maps.chunk(5, 1)
    variances = square_x - mean_x**2 + square_y - mean_y**2
    covariance = product - mean_x * mean_y
    above = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    return (above / ((mean_x**2 + mean_y**2 + C1) * (variances + C2))).mean()


def laplacian(maps: Tensor) -> Tensor:
    """What a picture `(B, C, H, W)` loses by being halved and doubled: its edges."""
    height, width = maps.shape[2:]
    # zeros between the pixels that are kept, each of which stands for four
    even = [torch.arange(size, device=maps.device) % 2 == 0 for size in (height, width)]
    kept = 4.0 * (even[0][:, None] & even[1][None, :])
    return maps - blurred(blurred(maps) * kept)


def blurred(maps: Tensor) -> Tensor:
    """Blurred by a 5 x 5 kernel, border pixels repeated, `(B, C, H, W)`."""
    kernel = torch.tensor(BLUR, dtype=maps.dtype, device=maps.device)
    return filtered(functional.pad(maps, [len(BLUR) // 2] * 4, mode="replicate"), kernel)


def edge_loss(output: Tensor, reference: Tensor) -> Tensor:
    """Mean squared difference of Laplacians, a scalar."""
    return functional.mse_loss(laplacian(output), laplacian(reference))


def perceptual_loss(vgg: nn.Module, output: Tensor, reference: Tensor) -> Tensor:
    """Mean squared differences of VGG-19 features, summed over layers; no gradient reaches the reference.

    Pictures in [0, 1] are taken as if they lay in [-1, 1], as the published code takes them.
    """
    with torch.no_grad():
        wanted = vgg(reference)
    return torch.stack([functional.mse_loss(*pair) for pair in zip(vgg(output), wanted, strict=True)]).sum()


def pair_terms(
    config: CidnetConfig, transform: nn.Module, output: Tensor, reference: Tensor, vgg: nn.Module | None
) -> dict[str, Term]:
    """Every term in both spaces, `l1_rgb` to `perceptual_hvi`, each a mean with its weight.

    Args:
        transform: RGB to HVI; its exponent gets gradient from both pictures.
        output, reference: RGB in [0, 1], fp32 `(B, 3, H, W)`.
        vgg: feature maps of pictures, or None to leave the perceptual terms out.
    """
    terms: dict[str, Term] = {}
    hvi = (transform(output), transform(reference))
    for space, factor, (one, other) in (("rgb", 1.0, (output, reference)), ("hvi", config.hvi_weight, hvi)):
        found = {
            "l1": (functional.l1_loss(one, other), config.l1_weight),
            "ssim": (1 - ssim(one, other), config.ssim_weight),
            "edge": (edge_loss(one, other), config.edge_weight),
        }
        if vgg is not None:
            found["perceptual"] = (perceptual_loss(vgg, one, other), config.perceptual_weight)
        terms |= {f"{name}_{space}": Term.mean(value, factor * weight) for name, (value, weight) in found.items()}
    return terms
