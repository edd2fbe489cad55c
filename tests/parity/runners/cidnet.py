"""HVI-CIDNet's parity cases: the network with inner maps, the colour transform, losses with gradients, inference."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from check import fill
from recipe import Case
from torch import Tensor

from lumiray.system import System
from lumizoo.blocks.pictures import pad_to_multiple
from lumizoo.cidnet.colour import Hvi
from lumizoo.cidnet.config import CidnetConfig
from lumizoo.cidnet.losses import pair_terms
from lumizoo.cidnet.system import CidnetSystem
from lumizoo.cidnet.vgg import Vgg19


def tensors(case: Case) -> dict[str, Tensor]:
    """The case's inputs; integers as fp32."""
    return {name: torch.from_numpy(value).float() for name, value in case.inputs().items()}


def filled_system(case: Case) -> System:
    """The system of the case's configuration with its weights, in eval mode."""
    config = case.spec["config"]
    system = CidnetSystem(
        CidnetConfig(
            channels=tuple(config["channels"]),
            heads=tuple(config["heads"]),
            norm=config["norm"],
            alpha_s=config.get("alpha_s", 1.0),
            alpha=config.get("alpha_i", 1.0),
            gamma=config.get("gamma", 1.0),
            pad_multiple=config.get("pad_multiple", 8),
        )
    )
    network = system.build(system.stages()[0])["cidnet"].eval()
    fill(network, case)
    trainable = sum(value.numel() for value in network.parameters())
    assert trainable == case.spec["trainable_parameters"], f"{trainable} parameters"
    return system


@torch.no_grad()
def network(case: Case) -> dict[str, np.ndarray]:
    """RGB to RGB, HVI before and after, and the output of every block that the case names."""
    net = filled_system(case).networks["cidnet"]
    image = tensors(case)["image"]
    got: dict[str, Any] = {}

    def keep(name: str) -> Any:
        return lambda module, given, output: got.update({name: output.numpy()})

    for name in case.expected.keys() - {"output", "hvi_in", "hvi_out"}:
        net.get_submodule(name).register_forward_hook(keep(name))
    got |= {"output": net(image).numpy(), "hvi_in": net.trans(image).numpy()}
    return got | {"hvi_out": net.enhanced_hvi(image).numpy()}


@torch.no_grad()
def inference(case: Case) -> dict[str, np.ndarray]:
    """Padding, gamma, both factors, clamp and crop, as `restore` does them."""
    system = filled_system(case)
    image, config = tensors(case)["image"], system.config
    padded = pad_to_multiple(image, config.pad_multiple) ** config.gamma
    return {
        "hvi_out": system.networks["cidnet"].enhanced_hvi(padded).numpy(),
        "output": system.restore(image).numpy(),
    }


@torch.no_grad()
def hvi_transform(case: Case) -> dict[str, np.ndarray]:
    """Both directions with the filled exponent and with 0.2, factors, and an inverse before any forward."""
    inputs = tensors(case)
    rgb = {"levels": inputs["rgb_levels"] / 4, "random": inputs["rgb"]}
    levels = torch.cat(((inputs["hv_levels"] - 5) / 4, inputs["i_levels"] / 4), 1)
    hvi = {"levels": levels, "signed": inputs["hvi"]}
    got = {"inverse_signed_before_any_forward": Hvi().inverse(hvi["signed"])}
    for suffix in ("k", "k02"):
        transform = Hvi()
        fill(transform, case, lambda name: name.removeprefix("trans."))
        if suffix == "k02":
            transform.density_k.fill_(0.2)
        for name, value in rgb.items():
            forward = transform(value)
            got |= {f"forward_{name}_{suffix}": forward, f"round_trip_{name}_{suffix}": transform.inverse(forward)}
        got |= {f"inverse_{name}_{suffix}": transform.inverse(value) for name, value in hvi.items()}
        got[f"inverse_signed_{suffix}_gated"] = transform.inverse(hvi["signed"], 1.3, 0.8)
    return {name: value.numpy() for name, value in got.items()}


def losses(case: Case) -> dict[str, np.ndarray]:
    """Every term with the weight that the case's notes give it, sums, and gradients of the total."""
    given = case.spec["config"]
    config = CidnetConfig(
        l1_weight=given["L1_weight"],
        ssim_weight=given["D_weight"],
        edge_weight=given["E_weight"],
        perceptual_weight=given["P_weight"],
        hvi_weight=given["HVI_weight"],
    )
    vgg = Vgg19(given["vgg_layers"])
    fill(vgg, case)
    transform = Hvi()
    with torch.no_grad():
        transform.density_k.fill_(given["density_k"])
    inputs = tensors(case)
    output = inputs["pred"].requires_grad_()
    terms = pair_terms(config, transform, output, inputs["gt"], vgg)
    total = torch.stack([term.weight * term.sum for term in terms.values()]).sum()
    total.backward()
    got: dict[str, Any] = {"total": total, "grad_pred": output.grad, "grad_density_k": transform.density_k.grad}
    for space, factor in (("rgb", 1.0), ("hvi", config.hvi_weight)):
        own = {name: term for name, term in terms.items() if name.endswith(f"_{space}")}
        got |= {name: term.weight / factor * term.sum for name, term in own.items()}
        got[f"perceptual_{space}"] = own[f"perceptual_{space}"].sum  # unweighted in the case
        got[f"total_{space}"] = torch.stack([term.weight / factor * term.sum for term in own.values()]).sum()
    found = {name: value.detach().numpy() for name, value in got.items()}
    return {  # a scalar may be stored with one dimension or none
        name: value.reshape(case.expected[name].shape) if value.size == 1 and name in case.expected else value
        for name, value in found.items()
    }


KINDS = {"network": network, "inference": inference, "hvi_transform": hvi_transform, "losses": losses}
