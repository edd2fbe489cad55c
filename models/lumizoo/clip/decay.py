"""Which parameters escape weight decay: two published rules (card clip, Training)."""

from __future__ import annotations

from torch import nn

RULES = ("release-3", "head")


def no_decay(model: nn.Module, rule: str) -> frozenset[str]:
    """Names of parameters without weight decay.

    Args:
        model: an open_clip model; its logit scale and bias may have shape [] or [1].
        rule: `release-3` - fewer than two dimensions, or a name with bn, ln, bias or logit_scale in it;
            `head` - at most one dimension, or a position table or class embedding of a tower.

    Raises:
        ValueError: no such rule.
    """
    if rule == "release-3":
        words = ("bn", "ln", "bias", "logit_scale")
        return frozenset(
            name for name, value in model.named_parameters() if value.ndim < 2 or any(word in name for word in words)
        )
    if rule == "head":
        declared = ("positional_embedding", "visual.positional_embedding", "visual.class_embedding")
        return frozenset(name for name, value in model.named_parameters() if value.ndim <= 1 or name in declared)
    raise ValueError(f"no rule {rule!r} for weight decay; there are {', '.join(RULES)}")
