"""Files of published weights: read without running anything that is in them, fitted strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lumiray.errors import UserError
from lumiray.registry import recognised

# under these keys training programs put the state dict; averaged weights are those that were published
WRAPPERS = ("params_ema", "params", "state_dict", "model")
NAMED = 5  # names of tensors in a message


def whole_path(path: str | None, option: str = "weights") -> str | None:
    """The absolute path of a file that must be there; None stays None.

    Raises:
        UserError: no such file.
    """
    if path is None:
        return None
    if not Path(path).is_file():
        raise UserError(f"--{option} {path}: no such file.")
    return str(Path(path).resolve())


def read_state(path: str, option: str = "weights") -> dict[str, Tensor]:
    """Tensors of a weights file: safetensors, or a torch file that holds nothing but tensors and plain data.

    The state dict may lie under one of `WRAPPERS`; a prefix `module.` of all its names is taken off.

    Args:
        option: that named the file, for messages.

    Raises:
        UserError: the file is missing, truncated, or holds more than tensors.
    """
    whole_path(path, option)
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"--{option} {path}: not a file of tensors ({(str(error).splitlines() or [''])[0][:200]}). TorchScript "
            "archives and pickles with code are refused; save the state dict as safetensors instead."
        ) from None
    state = _unwrapped(found)
    if not isinstance(state, dict) or not state or not all(_is_entry(*one) for one in state.items()):
        raise UserError(
            f"--{option} {path}: holds no state dict of tensors, neither bare nor under {', '.join(WRAPPERS)}. "
            "Save the network's state dict alone, best as safetensors."
        )
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _unwrapped(found: Any) -> Any:
    while isinstance(found, dict):
        inner = next((found[key] for key in WRAPPERS if isinstance(found.get(key), dict)), None)
        if inner is None:
            return found
        found = inner
    return found


def _is_entry(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def misfit(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """What keeps a state dict from fitting: how many names, and the first few; empty where it fits."""
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if state[name].shape != own[name].shape
    ]
    parts = [
        ("missing", own.keys() - state.keys()),
        ("unexpected", state.keys() - own.keys()),
        ("other shapes", shapes),
    ]
    return "; ".join(
        f"{len(names)} {kind}: {', '.join(sorted(names)[:NAMED])}{' ...' if len(names) > NAMED else ''}"
        for kind, names in parts
        if names
    )


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], path: str, option: str = "weights") -> None:
    """Fill every tensor of a module.

    Args:
        path, option: where the state came from, for messages.

    Raises:
        UserError: names are missing or unexpected, or shapes differ (each kind counted, the first few named); where the
            file is another system's that is known, it says whose.
    """
    own = module.state_dict()
    told = misfit(own, state)
    if told:
        others = recognised(state) if own.keys() != state.keys() else []
        looks = f" It looks like a checkpoint of {' or '.join(others)}." if others else ""
        raise UserError(f"--{option} {path} does not fit the model: {told}.{looks}")
    module.load_state_dict(state)
