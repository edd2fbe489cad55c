"""What the two CLIPs look like, read from their descriptions without building them."""

from __future__ import annotations

from typing import Any

from lumiray.errors import UserError
from lumizoo.blocks.open_clip_library import model_settings
from lumizoo.clip_lit.config import ClipLitConfig

START, X, END = 49406, 343, 49407  # ids of CLIP's tokenizer: start of a text, the word "X", end
CONTEXT, WIDTH = 77, 512  # open_clip's defaults of a text tower
HEAD_WIDTH, SIDE = 64, 224  # and of a residual image tower


def scoring_settings(model: str) -> dict[str, Any]:
    """Arguments of open_clip's CLIP for `--clip-model`.

    Raises:
        UserError: no such model, or one whose texts are encoded in another way.
    """
    settings = model_settings(model, "clip-model")
    if settings.get("custom_text") or "hf_model_name" in settings["text_cfg"] or "multimodal_cfg" in settings:
        raise UserError(
            f"--clip-model {model}: its text tower is not CLIP's own, which learned prompts go through; "
            "ViT-B-32-quickgelu is the published one."
        )
    known = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")
    return {name: settings[name] for name in known if name in settings}


def content_settings(model: str) -> dict[str, Any]:
    """Arguments of open_clip's modified residual network for `--identity-model`.

    Raises:
        UserError: no such model, or one with another image tower.
    """
    settings = model_settings(model, "identity-model")
    vision = settings["vision_cfg"]
    if not isinstance(vision.get("layers"), (list, tuple)):
        raise UserError(
            f"--identity-model {model}: its image tower is no residual network; RN101-quickgelu is the published one."
        )
    return {
        "layers": vision["layers"],
        "output_dim": settings["embed_dim"],
        "heads": vision["width"] * 32 // vision.get("head_width", HEAD_WIDTH),
        "image_size": vision.get("image_size", SIDE),
        "width": vision["width"],
    }


def prompt_shape(config: ClipLitConfig) -> tuple[int, int]:
    """Tokens of a text and width of the text tower, as `--clip-model` has them.

    Raises:
        UserError: no such model, its texts are too short for the prompt, or it knows other tokens.
    """
    text = scoring_settings(config.clip_model)["text_cfg"]
    context, vocabulary = text.get("context_length", CONTEXT), text.get("vocab_size", END + 1)
    longest = context - 2  # start and end
    if config.prompt_length > longest:
        raise UserError(
            f"--prompt-length is {config.prompt_length}; texts of --clip-model have {context} tokens, start and end "
            f"among them: give at most {longest}."
        )
    if vocabulary <= END:
        raise UserError(
            f"--clip-model has {vocabulary} tokens and CLIP's tokenizer {END + 1}: give a model with all of them."
        )
    return context, text.get("width", WIDTH)
