"""CodeFormer's parity cases: autoencoder, whole network, one connection, losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from check import fill
from recipe import Case
from torch import Tensor, nn

from lumizoo.blocks.lpips import Lpips
from lumizoo.codeformer.config import CodeformerConfig
from lumizoo.codeformer.discriminator import Discriminator
from lumizoo.codeformer.losses import (
    adaptive_weight,
    code_cross_entropy,
    code_feature_loss,
    codebook_loss,
    fake_loss,
    generator_loss,
    perceptual_loss,
    real_loss,
)
from lumizoo.codeformer.network import CodeFormer, FeatureTransform, adaptive_instance_norm
from lumizoo.codeformer.objectives import CROSS_ENTROPY_WEIGHT
from lumizoo.codeformer.vqgan import Quantizer, Vqgan, levels_of


def tensors(case: Case) -> dict[str, Tensor]:
    """The case's inputs."""
    return {name: torch.from_numpy(value) for name, value in case.inputs().items()}


def filled(network: nn.Module, case: Case) -> nn.Module:
    """The network with the case's weights, in eval mode, as large as the case says."""
    fill(network, case)
    trainable = sum(value.numel() for value in network.parameters() if value.requires_grad)
    assert trainable == case.spec["trainable_parameters"], f"{trainable} parameters"
    return network.eval()


def numbers(found: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Tensors as arrays."""
    return {name: value.detach().numpy() for name, value in found.items()}


@torch.no_grad()
def vqgan(case: Case) -> dict[str, np.ndarray]:
    """Latents, codes, their loss, the picture."""
    given = case.spec["config"]
    assert given["quantizer"] == "nearest"
    config = CodeformerConfig(
        channels=given["nf"],
        multipliers=tuple(given["ch_mult"]),
        connections=(CodeformerConfig.size,),
        codebook_size=given["codebook_size"],
        code_width=given["emb_dim"],
    )
    attention = {
        level for level in range(len(given["ch_mult"])) if given["img_size"] // 2**level in given["attn_resolutions"]
    }
    levels = replace(levels_of(config), attention=frozenset(attention), blocks=given["res_blocks"])
    network = filled(Vqgan(config, levels), case)
    image = tensors(case)["image"]
    latents = network.encoder(image)
    picture, quantized = network(image)
    codes = network.quantize.looked_up(quantized.indices, latents.shape[2:])
    return numbers(
        {
            "latent": latents,
            "indices": quantized.indices.unflatten(1, latents.shape[2:]),
            "codebook_loss": codebook_loss(latents, codes, given["beta"]),
            "perplexity": quantized.perplexity,
            "codebook_feature": quantized.codes,
            "reconstruction": picture,
        }
    )


@torch.no_grad()
def codeformer(case: Case) -> dict[str, np.ndarray]:
    """The whole network in use; its size follows from the picture's."""
    given, image = case.spec["config"], tensors(case)["image"]
    config = CodeformerConfig(
        size=image.shape[-1],
        codebook_size=given["codebook_size"],
        transformer_width=given["dim_embd"],
        transformer_heads=given["n_head"],
        transformer_layers=given["n_layers"],
        connections=tuple(map(int, given["connect_list"])),
    )
    assert given["latent_size"] == (config.size // config.reduction) ** 2
    network = CodeFormer(config).requires_grad_(True)
    for name in given["fix_modules"]:
        network.get_submodule(name).requires_grad_(False)
    filled(network, case)
    prediction = network.predict(image)
    return numbers(
        {
            "output": network.generate(prediction, given["w"], given["adain"]),
            "logits": prediction.logits,
            "lq_feat": prediction.latents,
            "indices": prediction.logits.argmax(2),
        }
    )


@torch.no_grad()
def controllable_feature_transform(case: Case) -> dict[str, np.ndarray]:
    """A connection at every weight that the expected names speak of, and the statistics of one feature on another."""
    network = filled(FeatureTransform(case.spec["config"]["channels"]), case)
    encoder, generator = (tensors(case)[f"{one}_feature"] for one in ("encoder", "decoder"))
    weights = [name for name in case.expected if name.startswith("w")]
    found = {name: network(encoder, generator, float(name.removeprefix("w"))) for name in weights}
    return numbers(found | {"adain": adaptive_instance_norm(generator, encoder)})


def losses(case: Case) -> dict[str, np.ndarray]:
    """Every loss on the case's tensors, and scores of the discriminator."""
    given, inputs = case.spec["config"], tensors(case)
    discriminator = Discriminator(given["discriminator"]["ndf"], given["discriminator"]["n_layers"])
    judge = nn.ModuleDict({"perceptual": Lpips(), "discriminator": discriminator})
    # LPIPS's linear layers come twice, and the second name wins
    once = [one for one in case.spec["tensors"] if not one[0].startswith("perceptual.lin") or ".lins." in one[0]]
    fill(judge, replace(case, spec=case.spec | {"tensors": once}), _own_name)
    judge.eval()
    counted = sum(value.numel() for value in judge.parameters() if value.requires_grad)
    assert counted == case.spec["trainable_parameters"], f"{counted} parameters"
    quantizer = Quantizer(given["codebook_size"], given["emb_dim"])
    with torch.no_grad():
        quantizer.embedding.weight.copy_(inputs["codebook"])
    prediction, target, latents = inputs["prediction"], inputs["target"], inputs["latent"]
    wanted = quantizer.looked_up(inputs["target_index"], latents.shape[2:])
    nearest = quantizer.looked_up(quantizer.nearest(latents), latents.shape[2:])
    return numbers(
        {
            "lpips": perceptual_loss(judge["perceptual"], prediction, target),
            "l1": nn.functional.l1_loss(prediction, target),
            "gan_generator": generator_loss(inputs["fake_score"]),
            "gan_d_real": real_loss(inputs["real_score"]),
            "gan_d_fake": fake_loss(inputs["fake_score"]),
            "codebook_loss": codebook_loss(latents, nearest, given["beta"]),
            "feature_loss": code_feature_loss(latents, wanted),
            "cross_entropy_half": CROSS_ENTROPY_WEIGHT * code_cross_entropy(inputs["logits"], inputs["target_index"]),
            "adaptive_weight": _adaptive_weight(inputs),
            "discriminator_score": judge["discriminator"](inputs["disc_image"]),
        }
    )


def _adaptive_weight(inputs: dict[str, Tensor]) -> Tensor:
    """As the case's notes make its two losses of one convolution."""
    layer = nn.Parameter(inputs["last_layer"])
    output = nn.functional.conv2d(inputs["latent"], layer, padding=1)
    return adaptive_weight((output - inputs["recon_target"]).abs().mean(), -output.square().mean(), layer)


def _own_name(name: str) -> str:
    """`perceptual.net.slice3.10.bias` is VGG's `features.10.bias`."""
    if name.startswith("perceptual.net."):
        return "perceptual.vgg.features." + ".".join(name.split(".")[3:])
    if name.startswith("perceptual.lins."):
        return f"perceptual.linear.{name.split('.')[2]}.weight"
    return name.replace("perceptual.scaling_layer.", "perceptual.")


KINDS: dict[str, Any] = {
    "vqgan": vqgan,
    "codeformer": codeformer,
    "controllable_feature_transform": controllable_feature_transform,
    "losses": losses,
}
