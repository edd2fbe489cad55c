"""What a model's pictures and captions look like, read from its configuration without building it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from lumiray.errors import UserError, near
from lumizoo.clip.config import ClipConfig
from lumizoo.clip.library import model_config, model_names

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Form:
    """Sizes and conventions that preparing a row needs.

    Args:
        size: pixels of a picture's side.
        mean, std: of RGB in [0, 1], subtracted and divided on the device.
        resize: how evaluation pictures become square: shortest | longest | squash.
        hf_tokenizer: name of the tokenizer on the hub, or None for CLIP's own.
    """

    size: int
    context_length: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: Literal["shortest", "longest", "squash"]
    hf_tokenizer: str | None
    tokenizer_options: tuple[tuple[str, Any], ...]


@cache
def model_settings(model: str) -> dict[str, Any]:
    """open_clip's configuration of a model: by name, from a JSON file, or JSON itself.

    Raises:
        UserError: no such model or file, or the file is not a model configuration.
    """
    if model.endswith(".json") or model.startswith("{"):
        try:
            settings = json.loads(model if model.startswith("{") else Path(model).read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"--model {model}: cannot be read as JSON ({error}).") from None
        missing = {"embed_dim", "vision_cfg", "text_cfg"} - set(settings)
        if missing:
            raise UserError(f"--model {model}: a model configuration needs {', '.join(sorted(missing))}.")
        return settings
    settings = model_config(model)
    if settings is None:
        known = model_names()
        raise UserError(
            f"--model {model!r}: open_clip has no model of that name.{near(model, known)} "
            "(or give the path of a model configuration, ending in .json)"
        )
    return settings


def form_of(config: ClipConfig) -> Form:
    """The form of a configuration's pictures and captions.

    Raises:
        UserError: the model is unknown.
    """
    settings = model_settings(config.model)
    vision, text = settings["vision_cfg"], settings["text_cfg"]
    size = config.image_size or vision.get("image_size", 224)
    size = size[0] if isinstance(size, (list, tuple)) else size
    picture = _picture_settings(config)
    return Form(
        size=int(size),
        context_length=config.context_length or text.get("context_length", 77),
        mean=tuple(picture.get("mean") or OPENAI_MEAN),
        std=tuple(picture.get("std") or OPENAI_STD),
        resize=picture.get("resize_mode") or "shortest",
        hf_tokenizer=text.get("hf_tokenizer_name") or None,
        tokenizer_options=tuple(sorted((text.get("tokenizer_kwargs") or {}).items())),
    )


def _picture_settings(config: ClipConfig) -> dict[str, Any]:
    """Mean, std and resizing of the pretrained weights that are named, if open_clip knows them."""
    if config.weights and not config.model.endswith((".json", "}")):
        import open_clip

        return open_clip.get_pretrained_cfg(config.model, config.weights) or {}
    return {}
