"""What stands in for a bright picture: one reflectance in all exposures of a scene (card pairlie, Losses).

All in fp32: a picture is divided by its illumination, without an epsilon.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from lumiray.system import Term
from lumizoo.pairlie.config import PairlieConfig
from lumizoo.pairlie.network import Layers, PairLIE


def consistency(reflectances: Tensor) -> Tensor:
    """Mean squared difference of two reflectances, a scalar; of more than two, the mean over all pairs of them.

    Args:
        reflectances: `(B, K, 3, H, W)` of K exposures; gradient flows into all.
    """
    pairs = combinations(reflectances.unbind(1), 2)
    return torch.stack([mse_loss(one, other) for one, other in pairs]).mean()


def smoothness(illumination: Tensor) -> Tensor:
    """Mean absolute difference of pixels that are two apart, down and across, `(B, 1, H, W)` to a scalar."""
    down = (illumination[:, :, 2:] - illumination[:, :, :-2]).abs().mean()
    across = (illumination[..., 2:] - illumination[..., :-2]).abs().mean()
    return down + across


def retinex(picture: Tensor, layers: Layers) -> dict[str, Tensor]:
    """The four terms of the Retinex loss, each a scalar; the loss is their sum.

    Args:
        picture: RGB in [0, 1], fp32 `(B, 3, H, W)`.
        layers: what it was taken apart into.
    """
    illumination, reflectance, projected = layers.illumination, layers.reflectance, layers.projected
    return {
        "recomposition": mse_loss(illumination * reflectance, projected),
        # the illumination gets no gradient here, or it would grow until the quotient fits
        "reflectance": mse_loss(reflectance, projected / illumination.detach()),
        "illumination": mse_loss(illumination, picture.amax(1, keepdim=True)),
        "smoothness": smoothness(illumination),
    }


def exposure_terms(config: PairlieConfig, network: PairLIE, exposures: Tensor) -> dict[str, Term]:
    """Every term of a batch of scenes, each a mean with its weight; the weighted sum is the published loss.

    Only the first exposure of a scene is in the Retinex loss and in the projection loss, as published, however many
    there are; the others are in the consistency alone.

    Args:
        exposures: RGB in [0, 1], fp32 `(B, K, 3, H, W)`, K of at least 2.

    Returns:
        `consistency`, the four of `retinex`, and `projection`.
    """
    first, others = exposures[:, 0], exposures[:, 1:]
    layers = network(first)
    reflectances = network.reflectance(others.flatten(0, 1)).unflatten(0, others.shape[:2])
    reflectances = torch.cat((layers.reflectance[:, None], reflectances), 1)
    terms = {"consistency": Term.mean(consistency(reflectances), config.consistency_weight)}
    terms |= {name: Term.mean(value, config.retinex_weight) for name, value in retinex(first, layers).items()}
    terms["projection"] = Term.mean(mse_loss(first, layers.projected), config.projection_weight)
    return terms
