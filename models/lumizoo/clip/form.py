"""What a model's pictures and captions look like, read from its configuration without building it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from lumizoo.blocks.open_clip_library import OPENAI_MEAN, OPENAI_STD, model_settings
from lumizoo.clip.config import ClipConfig


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
