"""The DeepSpeed configuration of a run, without DeepSpeed: what the options say, over a user's own JSON.

The JSON is for what no option says.  What both could say would be ranked silently, so it is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lumiray.config import EngineConfig, RunConfig
from lumiray.errors import UserError
from lumiray.storage import open_url

REFUSED_IN_OWN_JSON = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "bf16",
    "fp16",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "amp",
    "torch_autocast",
    "managed_gradient_accumulation",
)
DEFAULTS = {  # what one's own JSON may say otherwise
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,  # AdamW is DeepSpeed's where its state is offloaded, plain SGD is torch's
    "steps_per_print": None,
    "wall_clock_breakdown": False,
}


def deepspeed_settings(run: RunConfig, rows_per_rank: int, world_size: int) -> dict[str, Any]:
    """The DeepSpeed configuration of a run: the user's own JSON, if any, plus what the run decides.

    Raises:
        UserError: the JSON cannot be read, or sets what the run's options set.
    """
    import torch

    engine: EngineConfig = run.engine
    settings = own_settings(engine.deepspeed) if engine.deepspeed else {}
    zero = settings.setdefault("zero_optimization", {"stage": run.zero or 0})
    for part, target in (("optimizer", engine.offload_optimizer), ("param", engine.offload_parameters)):
        if target != "none":
            place = {"device": target, "pin_memory": target == "cpu" and torch.cuda.is_available()}
            if target == "nvme":
                place["nvme_path"] = engine.nvme_path
            zero[f"offload_{part}"] = place
    return (
        DEFAULTS
        | settings
        | {
            "train_micro_batch_size_per_gpu": rows_per_rank,
            "train_batch_size": rows_per_rank * world_size,
            "gradient_accumulation_steps": 1,  # the loop sets the boundary itself
            "bf16": {"enabled": run.precision == "bf16"},
            "fp16": {"enabled": run.precision == "fp16"},
            "gradient_clipping": engine.clip_norm,
        }
    )


def own_settings(given: str) -> dict[str, Any]:
    """A user's DeepSpeed JSON, checked for keys that options of the run set.

    Args:
        given: address of the file, or the JSON itself.

    Raises:
        UserError: unreadable, not a JSON object, or it sets a size, precision or clipping.
    """
    try:
        if given.lstrip().startswith("{"):
            name, settings = "", json.loads(given)
        else:
            name = f" {given}"
            with open_url(given, "rb") as file:
                settings = json.load(file)
    except (OSError, ValueError) as error:
        raise UserError(f"--engine.deepspeed {given}: cannot be read as JSON ({error}).") from None
    if not isinstance(settings, dict) or not isinstance(settings.get("zero_optimization", {}), dict):
        raise UserError(f"--engine.deepspeed{name}: must hold one JSON object, and another as its zero_optimization.")
    clashing = [key for key in REFUSED_IN_OWN_JSON if key in settings]
    if clashing:
        raise UserError(
            f"--engine.deepspeed{name} sets {', '.join(clashing)}, which options of the job set "
            "(--global-batch-size, --micro-batch-size, --precision, --engine.clip-norm, --lr ...); remove them."
        )
    return settings


def offloaded(zero: Mapping[str, Any], part: str) -> str:
    """Where a part (optimizer, param) is kept: none | cpu | nvme."""
    place = (zero.get(f"offload_{part}") or {}).get("device")
    return "none" if place is None else str(place)
