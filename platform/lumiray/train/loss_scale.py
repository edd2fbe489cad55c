"""The fp16 loss scaler's state as plain numbers: without it a resumed run would scale, and skip, differently."""

from __future__ import annotations

from typing import Any

_FIELDS = {  # saved name -> field of DeepSpeed's scaler, whose two forms share these
    "scale": "cur_scale",
    "iteration": "cur_iter",
    "last_overflow": "last_overflow_iter",
    "hysteresis": "cur_hysteresis",
}


def loss_scale_state(engine: Any) -> dict[str, float] | None:
    """Scale, counts of iterations and hysteresis of a dynamic scaler; None unless training in fp16."""
    if not engine.fp16_enabled():
        return None
    scaler = _scaler(engine)
    values = {name: getattr(scaler, field, None) for name, field in _FIELDS.items()}
    return {name: value for name, value in values.items() if value is not None}


def load_loss_scale(engine: Any, state: dict[str, float] | None) -> None:
    """Write what `loss_scale_state` gave; without effect if either run has no scaler."""
    if state is None or not engine.fp16_enabled():
        return
    scaler = _scaler(engine)
    for name, field in _FIELDS.items():
        if name in state and getattr(scaler, field, None) is not None:
            setattr(scaler, field, state[name])


def _scaler(engine: Any) -> Any:
    """Stages 1 to 3 have a scaler object, stage 0 keeps the same fields in its configuration."""
    outer = engine.optimizer
    return outer.loss_scaler if hasattr(outer, "loss_scaler") else outer.loss_scale_config
