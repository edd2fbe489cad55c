"""ZS-N2N's parity cases: the network and the pair of halves, both loss terms, a short descent."""

from __future__ import annotations

import numpy as np
import torch
from recipe import Case
from torch import Tensor

from lumizoo.blocks.pairs import pair
from lumizoo.zs_n2n.config import ZsN2nConfig
from lumizoo.zs_n2n.fit import descend
from lumizoo.zs_n2n.losses import halves_of, pair_loss
from lumizoo.zs_n2n.network import NoiseNetwork


def filled(case: Case) -> tuple[NoiseNetwork, Tensor]:
    """The network with the case's weights, and the noisy picture."""
    from check import fill

    config = case.spec["config"]
    network = NoiseNetwork(config["n_chan"], config["width"], config["slope"])
    fill(network, case)
    trainable = sum(value.numel() for value in network.parameters())
    assert trainable == case.spec["trainable_parameters"], f"{trainable} parameters"
    return network, torch.from_numpy(case.inputs()["noisy"])


@torch.no_grad()
def network(case: Case) -> dict[str, np.ndarray]:
    """The noise that is predicted, the denoised picture, both halves of the noisy one."""
    model, noisy = filled(case)
    noise = model(noisy)
    first, second = pair(noisy)
    got = {"noise": noise, "denoised": (noisy - noise).clamp(0, 1), "pair_1": first, "pair_2": second}
    return {name: value.numpy() for name, value in got.items()}


@torch.no_grad()
def loss(case: Case) -> dict[str, np.ndarray]:
    """Both terms, their sum, and the pictures that they compare."""
    model, noisy = filled(case)
    found = pair_loss(model, noisy, halves_of(noisy))
    got = {"residual": found.residual, "consistency": found.consistency, "total": found.total}
    got |= {f"pred_{number + 1}": found.predicted[number : number + 1] for number in range(2)}
    got |= {f"denoised_{number + 1}": found.halved[number : number + 1] for number in range(2)}
    return {name: value.numpy().reshape(case.expected[name].shape) for name, value in got.items()}


def descent(case: Case) -> dict[str, np.ndarray]:
    """The loss before each step, the denoised picture after the last, and two of the weights."""
    config = case.spec["config"]
    model, noisy = filled(case)
    (losses,) = descend(model, noisy, ZsN2nConfig(steps=config["steps"], halve_every=config["step_size"]))
    with torch.no_grad():
        got = {"losses": losses, "denoised": (noisy - model(noisy)).clamp(0, 1)}
    got |= {name.replace(".", "_"): value.detach() for name, value in model.state_dict().items()}
    return {name: value.numpy() for name, value in got.items()}


KINDS = {"network": network, "loss": loss, "descent": descent}
