"""Parts of open_clip that are used without importing it.

The whole package takes seconds to import, and the driver, which only wants a model's sizes, and every decoding
process, which only wants the tokenizer, would pay for it each time.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

from lumiray.errors import UserError, near

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Subtracted from RGB in [0, 1]."""
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
"""What RGB is divided by after that."""


@cache
def _folder() -> Path:
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("open_clip is not installed: pip install open_clip_torch", name="open_clip")
    return Path(spec.submodule_search_locations[0])


def model_names() -> list[str]:
    """Names of the models that the library describes, sorted."""
    return sorted(file.stem for file in (_folder() / "model_configs").glob("*.json"))


def model_config(name: str) -> dict[str, Any] | None:
    """The library's description of a model, None if it has none; `hf-hub:` and `local-dir:` names work as there."""
    if ":" in name:
        import open_clip

        return open_clip.get_model_config(name)
    if name not in model_names():
        return None
    found: dict[str, Any] = json.loads((_folder() / "model_configs" / f"{name}.json").read_text())
    return found


@cache
def model_settings(model: str, option: str = "model") -> dict[str, Any]:
    """open_clip's configuration of a model: by name, from a JSON file, or JSON itself.

    Args:
        option: that named the model, for messages.

    Raises:
        UserError: no such model or file, or the file is not a model configuration.
    """
    if model.endswith(".json") or model.startswith("{"):
        try:
            settings = json.loads(model if model.startswith("{") else Path(model).read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"--{option} {model}: cannot be read as JSON ({error}).") from None
        missing = {"embed_dim", "vision_cfg", "text_cfg"} - set(settings)
        if missing:
            raise UserError(f"--{option} {model}: a model configuration needs {', '.join(sorted(missing))}.")
        return settings
    settings = model_config(model)
    if settings is None:
        known = model_names()
        raise UserError(
            f"--{option} {model!r}: open_clip has no model of that name.{near(model, known)} "
            "(or give the path of a model configuration, ending in .json)"
        )
    return settings


@cache
def tokenizers() -> Any:
    """The library's module of tokenizers, by itself."""
    if "open_clip" in sys.modules:
        return importlib.import_module("open_clip.tokenizer")
    spec: Any = importlib.util.spec_from_file_location("open_clip_tokenizer", _folder() / "tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
