"""Weights from a file or an open_clip tag into a model, and back into open_clip's layout; tensors only."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from lumiray.errors import UserError, near
from lumizoo.blocks.published import load_strictly, read_state

SCALARS = ("logit_scale", "logit_bias")  # shape [] in open_clip's files, [1] in our engines


def to_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under open_clip's names and shapes: no `clip.` prefix, scalars of shape []."""
    plain = {name.removeprefix("clip."): value for name, value in state.items()}
    return {name: value.reshape(()) if name in SCALARS else value for name, value in plain.items()}


def load_weights(model: nn.Module, name: str, weights: str) -> None:
    """Fill an open_clip model from a file or a pretrained tag, strictly.

    Position tables of other sizes are interpolated, a missing logit bias becomes 0, scalars are reshaped.

    Raises:
        UserError: no such tag or file, or tensors that do not fit (each is named).
    """
    check_weights(name, weights)
    path = weights if is_file(weights) else _fetched(name, weights)
    state = read_state(path)
    _fit(model, state, weights)


def is_file(weights: str) -> bool:
    """Whether `--weights` names a file rather than a tag."""
    return Path(weights).suffix in (".safetensors", ".pt", ".pth", ".bin") or "/" in weights


def check_weights(name: str, weights: str) -> None:
    """Refuse a file that is not there, and a tag that is not known, before anything is fetched or built.

    Args:
        name: of the open_clip model, or its configuration.

    Raises:
        UserError: names what is missing, and tags that are nearly so called.
    """
    if is_file(weights):
        if not Path(weights).is_file():
            raise UserError(f"--weights {weights}: no such file.")
        return
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    if weights not in tags:
        model = "a model of your own" if name.lstrip().startswith("{") or name.endswith(".json") else name
        raise UserError(
            f"--weights {weights!r}: open_clip has no such tag for {model}; it has {', '.join(tags) or 'none'}."
            f"{near(weights, tags)} For a file give its path."
        )


def _fetched(name: str, tag: str) -> str:
    import open_clip

    try:
        return open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, tag))
    except Exception as error:
        source = open_clip.get_pretrained_cfg(name, tag)
        where = source.get("hf_hub") or source.get("url")
        raise UserError(
            f"--weights {tag}: cannot be had from {where} ({type(error).__name__}). Fetch the file on a machine "
            "with access and give its path."
        ) from None


def _fit(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed

    own = model.state_dict()
    if "positional_embedding" in state and "positional_embedding" not in own:
        state = convert_to_custom_text_state_dict(state)
    for name in SCALARS:
        if name in state and name in own:
            state[name] = state[name].reshape(own[name].shape)
    if "logit_bias" in own and "logit_bias" not in state:
        state["logit_bias"] = torch.zeros_like(own["logit_bias"])
    state = {name: value for name, value in state.items() if not name.endswith("position_ids") or name in own}
    resize_pos_embed(state, model)
    resize_text_pos_embed(state, model)
    load_strictly(model, state, source)
