"""open_clip's networks as an engine can train them: no 0-dimensional parameters, locked towers, recomputation."""

from __future__ import annotations

import copy
import math
from typing import Any

from torch import nn

from lumiray.errors import UserError
from lumizoo.blocks.open_clip_library import model_settings
from lumizoo.clip.config import ClipConfig
from lumizoo.clip.weights import load_weights


def build(config: ClipConfig) -> nn.Module:
    """The model of a configuration, with its weights, in fp32 on the CPU.

    Raises:
        UserError: unknown model, weights that cannot be had or do not fit, a tower that cannot be locked.
    """
    model = make_model(config)
    if config.weights:
        load_weights(model, config.model, config.weights)
    lock(model, config)
    if config.grad_checkpointing:
        model.set_grad_checkpointing()
    return model


def make_model(config: ClipConfig) -> nn.Module:
    """The model with fresh weights."""
    from open_clip.model import CLIP, CustomTextCLIP

    settings = adapted(copy.deepcopy(model_settings(config.model)), config)
    custom = settings.pop("custom_text", False) or "hf_model_name" in settings["text_cfg"]
    if "multimodal_cfg" in settings:
        raise UserError(f"--model {config.model}: captioning models (CoCa) are not trained by this system.")
    settings = {
        name: settings[name]
        for name in (
            "embed_dim",
            "vision_cfg",
            "text_cfg",
            "quick_gelu",
            "init_logit_scale",
            "init_logit_bias",
        )
        if name in settings
    }
    kind = CustomTextCLIP if custom else CLIP
    return kind(**settings, nonscalar_logit_scale=True)  # DeepSpeed takes no parameters of shape []


def adapted(settings: dict[str, Any], config: ClipConfig) -> dict[str, Any]:
    """open_clip's settings with the configuration's overrides."""
    vision, text = settings["vision_cfg"], settings["text_cfg"]
    if config.image_size:
        vision["image_size"] = config.image_size
    if config.context_length:
        text["context_length"] = config.context_length
    if config.patch_dropout:
        vision["patch_dropout"] = config.patch_dropout
    if config.quick_gelu or config.weights == "openai":
        settings["quick_gelu"] = True
    if config.loss == "sigmoid":
        settings.setdefault("init_logit_scale", math.log(10))
        settings.setdefault("init_logit_bias", -10.0)
    return settings


def lock(model: nn.Module, config: ClipConfig) -> None:
    """Freeze towers as configured.

    Raises:
        UserError: the tower's kind cannot be locked in this way.
    """
    try:
        if config.lock_image:
            model.lock_image_tower(unlocked_groups=config.unlock_image_groups)
        if config.lock_text:
            model.lock_text_tower(unlocked_layers=config.unlock_text_layers)
    except (AssertionError, NotImplementedError) as error:
        raise UserError(f"--model {config.model}: its tower cannot be locked in this way ({error}).") from None
