"""What of a system's networks is trained, and how fast: frozen parts, rates of their own, low-rank adapters.

Patterns are those of the shell over the stored names, such as `net.first.*`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

from torch import nn

from lumiray.config import FinetuneConfig
from lumiray.errors import UserError, near
from lumiray.system import Stage, System
from lumiray.train.adapters import adapt, adaptable
from lumiray.train.recipe import rate_factors


def apply_finetuning(system: System, stage: Stage, settings: FinetuneConfig) -> None:
    """Freeze and adapt the networks that the stage's players move, once they are built.

    Raises:
        UserError: a pattern that no name fits.
    """
    moved = {name for player in stage.players for name in player.networks}
    parameters = {name: value for name, value in system.networks.named_parameters() if name.partition(".")[0] in moved}
    for name in matching(settings.freeze, parameters, "freeze"):
        parameters[name].requires_grad_(False)
    matching([pattern for pattern, _ in rate_factors(settings)], parameters, "lr-factor")  # each fits something
    if settings.adapter_rank:
        layers = layers_of(system.networks, moved)
        chosen = matching(settings.adapt, layers, "adapt")
        adapted = {name.partition(".")[0] for name in chosen}
        for name, value in parameters.items():
            if name.partition(".")[0] in adapted:
                value.requires_grad_(False)
        for name in chosen:
            adapt(layers[name], settings.adapter_rank, settings.adapter_alpha or float(settings.adapter_rank))


def layers_of(networks: nn.ModuleDict, moved: Collection[str]) -> dict[str, nn.Module]:
    """Layers that can have adapters, by name."""
    return {name: one for name, one in networks.named_modules() if name.partition(".")[0] in moved and adaptable(one)}


def matching(patterns: Iterable[str], names: Collection[str], option: str) -> list[str]:
    """Names that fit one of the patterns, in their own order.

    Raises:
        UserError: a pattern that none fits.
    """
    patterns = list(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"--finetune.{option} {pattern!r} fits no name of the networks.{near(pattern, names)}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
