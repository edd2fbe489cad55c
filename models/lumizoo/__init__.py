"""lumizoo: published systems, one folder each.  Usable without a cluster: `lumizoo.load("clip")`."""

from __future__ import annotations

import sys
from typing import Any


def load(slug: str, *, stage: str | None = None, **settings: Any) -> Any:
    """A system with the networks of a stage built, in eval mode; Ray is never imported.

    net = lumizoo.load("cidnet", weights="LOLv1.pth")
    better = net.restore(picture)            a uint8 array, a PIL picture or a tensor; the same kind comes back

    With weights, the licences under which the authors published their code and weights are said on stderr.

    Args:
        slug: the system's name, such as `clip`.
        stage: the name of one of its stages; the last one if None.
        settings: fields of its configuration, such as `model` and `weights`.

    Raises:
        lumiray.errors.UserError: no such system, stage, setting or weights.
    """
    from lumiray.registry import about, system
    from lumiray.system import stage_named

    found = system(slug, **settings)
    found.build(stage_named(found, stage) if stage else found.stages()[-1])
    found.networks.eval()
    facts = about(slug)
    if facts and settings.get("weights"):
        print(
            f"{facts.name}: licence of the published code: {facts.code_licence}; of weights: {facts.weights_licence}.",
            file=sys.stderr,
        )
    return found


__all__ = ["load"]
