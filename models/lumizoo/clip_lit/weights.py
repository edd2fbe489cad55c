"""Files of weights: which are needed, where they are had, and how they come into the networks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from lumiray.errors import UserError
from lumizoo.blocks.open_clip_library import model_settings
from lumizoo.blocks.published import load_strictly, read_state, whole_path
from lumizoo.clip_lit.config import ClipLitConfig
from lumizoo.clip_lit.forms import content_settings, prompt_shape
from lumizoo.clip_lit.prompts import PromptPair

PROMPTS = "embedding_prompt"


def clip_file(config: ClipLitConfig) -> str:
    """The absolute path of the weights that score pictures.

    Raises:
        UserError: none are given, or they are not there; says where to get them.
    """
    if config.clip_weights is None:
        raise UserError(
            "--clip-weights is missing: prompts and enhancer learn from CLIP's scores. Give the path of OpenAI's "
            "ViT-B/32 (open_clip_model.safetensors of timm/vit_base_patch32_clip_224.openai on the Hugging Face hub), "
            "or of a CLIP that you trained, with its --clip-model."
        )
    return str(whole_path(config.clip_weights, "clip-weights"))


def identity_file(config: ClipLitConfig) -> str | None:
    """The absolute path of the weights that hold the content; None where that term is left out.

    Raises:
        UserError: none are given, or they are not there; says where to get them and how to do without.
    """
    if not config.identity_weight:
        return None
    if config.identity_weights is None:
        raise UserError(
            "--identity-weights is missing: the identity term compares features of CLIP's residual tower. Give the "
            "path of OpenAI's RN101 (open_clip_model.safetensors of timm/resnet101_clip.openai on the Hugging Face "
            "hub), or train without that term: --identity-weight 0."
        )
    return str(whole_path(config.identity_weights, "identity-weights"))


def carried_along(config: ClipLitConfig) -> ClipLitConfig:
    """The configuration as workers in other folders can use it: whole paths, and models as their content.

    Raises:
        UserError: a file that training needs is not given, or not there; or a model cannot serve.
    """
    prompt_shape(config)
    if config.identity_weight:
        content_settings(config.identity_model)
    return replace(
        config,
        weights=whole_path(config.weights),
        prompt_weights=whole_path(config.prompt_weights, "prompt-weights"),
        clip_model=_model_as_text(config.clip_model, "clip-model"),
        clip_weights=clip_file(config),
        identity_model=_model_as_text(config.identity_model, "identity-model"),
        identity_weights=identity_file(config),
    )


def _model_as_text(model: str, option: str) -> str:
    """A model configuration in a file as its content, a name as it is."""
    return json.dumps(model_settings(model, option)) if model.endswith(".json") else model


def load_enhancer(network: nn.Module, path: str) -> None:
    """Fill the enhancer from a published file or one exported here, in which the prompts lie beside it.

    Raises:
        UserError: the file is missing, holds more than tensors, or does not fit.
    """
    state = read_state(path)
    load_strictly(network, {name: value for name, value in state.items() if name != PROMPTS}, path)


def load_prompts(network: nn.Module, path: str) -> None:
    """Fill the prompts from a file that has them beside other tensors: published ones hold the text encoder, too.

    Raises:
        UserError: the file is missing, holds more than tensors, no prompts, or prompts of another CLIP.
    """
    state = read_state(path, "prompt-weights")
    own = {PROMPTS: state[PROMPTS]} if PROMPTS in state else state
    load_strictly(network, own, path, "prompt-weights")


def made_prompts(config: ClipLitConfig, initial: Callable[[], torch.Tensor] | None) -> PromptPair:
    """The prompts from their file, else both from the initial text.

    Args:
        initial: gives its embeddings `(L, W)`; without it and without a file they stay 0, and nothing reads them:
            whatever does needs CLIP.
    """
    prompts = PromptPair(*prompt_shape(config))
    if config.prompt_weights:
        load_prompts(prompts, config.prompt_weights)
    elif initial is not None:
        with torch.no_grad():
            prompts.embedding_prompt.copy_(initial())
    return prompts
