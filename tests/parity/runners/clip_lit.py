"""CLIP-LIT's parity cases: the enhancer in both forms, the identity loss, prompts with their losses and gradient."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from check import fill
from recipe import Case
from torch import Tensor

from lumizoo.clip_lit.losses import (
    CLIP_WEIGHT,
    ENHANCEMENT_LEVELS,
    ENHANCEMENT_SHARE,
    RANK_WEIGHT,
    RECONSTRUCTION_LEVELS,
    classification,
    content_distances,
    ranked_pairs,
    ranking,
)
from lumizoo.clip_lit.network import Enhancer, enhanced_in_training, enhanced_in_use
from lumizoo.clip_lit.pixels import clip_pixels
from lumizoo.clip_lit.prompts import (
    PromptPair,
    initial_prompt,
    logits,
    negative_probability,
    picture_features,
    prompt_features,
)
from lumizoo.clip_lit.towers import ContentTower, ScoringClip, content_tower, scoring_clip

SHOWN_ROWS = 20  # of the initial prompt
THINNED = ("feature_0", "feature_1")  # stored at every 4th row and column
IDENTITY_WEIGHT = 25.0


def tensors(case: Case) -> dict[str, Tensor]:
    """The case's inputs."""
    return {name: torch.from_numpy(value) for name, value in case.inputs().items()}


def arrays(case: Case, got: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Results as arrays; a scalar in the shape in which the case has it."""
    found = {name: value.detach().numpy() for name, value in got.items()}
    return {
        name: value.reshape(case.expected[name].shape) if value.size == 1 and name in case.expected else value
        for name, value in found.items()
    }


def model_json(clip: dict[str, Any]) -> str:
    """open_clip's configuration of a small CLIP that is described as in OpenAI's code."""
    vision = {name: clip[f"vision_{name}"] for name in ("layers", "width", "patch_size")}
    text = {name: clip[f"transformer_{name}"] for name in ("width", "heads", "layers")}
    return json.dumps(
        {
            "embed_dim": clip["embed_dim"],
            "quick_gelu": True,
            "vision_cfg": vision | {"image_size": clip["image_resolution"]},
            "text_cfg": text | {name: clip[name] for name in ("context_length", "vocab_size")},
        }
    )


@torch.no_grad()
def enhancer(case: Case) -> dict[str, np.ndarray]:
    """Light maps with zero and reflected padding, the layers before them, and pictures divided by them."""
    prefix = case.spec["config"].get("prefix", "")
    network = Enhancer().eval()
    fill(network, case, lambda name: name.removeprefix(prefix))
    trainable = sum(value.numel() for value in network.parameters())
    assert trainable == case.spec["trainable_parameters"], f"{trainable} parameters"
    image = tensors(case)["image"]
    kept: dict[str, Tensor] = {}
    network.cond_add1.register_forward_hook(lambda module, given, output: kept.update(last=output))
    network.PPM1.register_forward_hook(lambda module, given, output: kept.update(pooling=output))
    got: dict[str, Tensor] = {}
    for border in ("zero", "reflect"):
        got[f"light_map_{border}"] = network(image, reflect=border == "reflect")
        got[f"last_convolution_{border}"] = kept["last"]
        got[f"pyramid_pooling_{border}"] = kept["pooling"][:, :8]
    got["enhanced_training"] = enhanced_in_training(network, image)
    got["enhanced_inference"] = enhanced_in_use(network, image)
    return arrays(case, got)


def filled_tower(case: Case) -> ContentTower:
    """The residual tower of the case with its weights."""
    tower = content_tower(model_json(case.spec["config"]["clip"]))
    own = {name for name, _, _ in case.spec["tensors"] if name.startswith("visual.")}
    fill(tower, only(case, own), lambda name: name.removeprefix("visual."))
    return tower


def only(case: Case, names: set[str]) -> Case:
    """The case without the tensors of other networks."""
    return Case({**case.spec, "tensors": [one for one in case.spec["tensors"] if one[0] in names]}, case.expected)


@torch.no_grad()
def identity_loss(case: Case) -> dict[str, np.ndarray]:
    """Feature maps of the first enhanced picture, its pooled feature, and the loss of both stages."""
    tower, inputs = filled_tower(case), tensors(case)
    enhanced, given = (tower(clip_pixels(inputs[name], tower.side)) for name in ("enhanced", "input"))
    got = {f"feature_{level}": value[:1] for level, value in enumerate(enhanced)}
    got = {name: value[..., ::4, ::4] if name in THINNED else value for name, value in got.items()}
    got["pooled_feature"] = tower.attnpool(enhanced[-1])[:1]
    for name, levels, share in (
        ("reconstruction_loss", RECONSTRUCTION_LEVELS, 1.0),
        ("identity_loss", ENHANCEMENT_LEVELS, ENHANCEMENT_SHARE),
    ):
        got[name] = share * IDENTITY_WEIGHT * content_distances(enhanced, given, levels).sum()
    return arrays(case, got)


def filled_clip(case: Case) -> ScoringClip:
    """The small CLIP of the case with its weights."""
    clip = scoring_clip(model_json(case.spec["config"]["clip"]))
    own = {name for name, _, _ in case.spec["tensors"] if name != "embedding_prompt"}
    fill(clip, only(case, own))
    return clip


def prompt_learning(case: Case) -> dict[str, np.ndarray]:
    """The initial prompt; scores and losses of the prompt that lies 2 E beside it; the gradient that it gets."""
    clip, inputs = filled_clip(case), tensors(case)
    length = case.spec["config"]["prompt_length"]
    initial = initial_prompt(clip, length)
    prompts = PromptPair(*initial.shape)
    with torch.no_grad():
        prompts.embedding_prompt.copy_(initial)
        initial_features = clip.encode_prompts(prompts(), length + 1)
        shift = 2 * torch.from_numpy(case.state_dict()["embedding_prompt"])
        prompts.embedding_prompt.copy_(initial + shift)
    trainable = sum(value.numel() for module in (clip, prompts) for value in module.parameters() if value.requires_grad)
    assert trainable == case.spec["trainable_parameters"], f"{trainable} parameters"
    texts = prompt_features(clip, prompts, length)
    features = {name: picture_features(clip, pictures) for name, pictures in inputs.items()}
    scores = {name: logits(value, texts) for name, value in features.items()}
    negative = {name: negative_probability(value) for name, value in scores.items()}
    both = torch.cat((scores["backlit"], scores["well_lit"]))
    source = torch.tensor([0] * len(scores["backlit"]) + [1] * len(scores["well_lit"]))
    term = classification(both, source)
    cross_entropy = term.sum / term.count
    (gradient,) = torch.autograd.grad(cross_entropy, prompts.embedding_prompt, retain_graph=True)
    got = {
        "initial_prompt": initial[:SHOWN_ROWS],
        "initial_text_features": initial_features,
        "text_features": clip.encode_prompts(prompts(), length + 1),
        "image_features_backlit": features["backlit"][:, None],
        "logits": both,
        "prompt_cross_entropy": cross_entropy,
        "negative_probability_backlit": negative["backlit"],
        "negative_probability_well_lit": negative["well_lit"],
        "clip_loss": CLIP_WEIGHT * negative["enhanced"].mean(),
        "grad:embedding_prompt": gradient,
    }
    for results in range(3):
        chain = ["backlit", *(f"semi_{number}" for number in range(1, results + 1)), "well_lit"]
        pairs = [(negative[chain[one]], negative[chain[other]], margin) for one, other, margin in ranked_pairs(results)]
        got[f"rank_loss_{len(chain)}"] = RANK_WEIGHT * torch.stack([ranking(*one).mean() for one in pairs]).sum()
    return arrays(case, got)


KINDS = {"enhancer": enhancer, "identity-loss": identity_loss, "prompt-learning": prompt_learning}
