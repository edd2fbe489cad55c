"""PairLIE's parity cases: the three layers with enhanced pictures, and the training loss with its gradients."""

from __future__ import annotations

import re

import numpy as np
import torch
from check import fill
from recipe import Case
from torch import Tensor

from lumizoo.pairlie.config import PairlieConfig
from lumizoo.pairlie.losses import exposure_terms
from lumizoo.pairlie.network import PairLIE

ENHANCED = re.compile(r"enhanced_(\d)(\d+)")  # the exponent without its point
RETINEX = ("recomposition", "reflectance", "illumination", "smoothness")


def filled_network(case: Case) -> PairLIE:
    """The network of the case's width with its weights."""
    network = PairLIE(case.spec["config"]["width"])
    fill(network, case)
    trainable = sum(value.numel() for value in network.parameters())
    assert trainable == case.spec["trainable_parameters"], f"{trainable} parameters"
    return network


def tensors(case: Case) -> dict[str, Tensor]:
    """The case's inputs."""
    return {name: torch.from_numpy(value) for name, value in case.inputs().items()}


@torch.no_grad()
def enhancer(case: Case) -> dict[str, np.ndarray]:
    """The layers, what was left out of them, and the enhanced picture for every exponent that is asked for."""
    image = tensors(case)["image"]
    layers = filled_network(case).eval()(image)
    got = {
        "illumination": layers.illumination,
        "reflectance": layers.reflectance,
        "projected": layers.projected,
        "residual": image - layers.projected,
    }
    for name in case.expected:
        exponent = ENHANCED.fullmatch(name)
        if exponent:
            got[name] = layers.enhanced(float(f"{exponent[1]}.{exponent[2]}"))
    return {name: value.numpy() for name, value in got.items()}


def training_loss(case: Case) -> dict[str, np.ndarray]:
    """The three losses unweighted, the part that smoothness has, their weighted sum, and its gradients."""
    network, inputs = filled_network(case), tensors(case)
    terms = exposure_terms(PairlieConfig(), network, torch.stack((inputs["low_1"], inputs["low_2"]), 1))
    total = torch.stack([term.weight * term.sum for term in terms.values()]).sum()
    total.backward()
    got = {name: terms[name].sum for name in ("consistency", "projection", "smoothness")}
    got |= {"retinex": torch.stack([terms[name].sum for name in RETINEX]).sum(), "total": total}
    got |= {f"grad:{name}": value.grad for name, value in network.named_parameters() if value.grad is not None}
    return {  # a scalar may be stored with one dimension or none
        name: value.detach().numpy().reshape(case.expected[name].shape if value.numel() == 1 else value.shape)
        for name, value in got.items()
        if name in case.expected
    }


KINDS = {"enhancer": enhancer, "training-loss": training_loss}
