"""lumizoo: published systems, one folder each.  Usable without a cluster: `lumizoo.load("clip")`."""

from __future__ import annotations

import sys
from typing import Any


def load(slug: str, **settings: Any) -> Any:
    """A system with the networks of its last stage built, in eval mode; Ray is never imported.

    net = lumizoo.load("cidnet", weights="LOLv1.pth")
    better = net.restore(picture)            a uint8 array, a PIL picture or a tensor; the same kind comes back

    With weights, the licences under which the authors published their code and weights are said on stderr.

    Args:
        slug: the system's name, such as `clip`.
        settings: fields of its configuration, such as `model` and `weights`.

    Raises:
        lumiray.errors.UserError: no such system, setting or weights.
    """
    from lumiray.registry import about, system

    found = system(slug, **settings)
    found.build(found.stages()[-1])
    found.networks.eval()
    facts = about(slug)
    if facts and settings.get("weights"):
        print(
            f"{facts.name}: licence of the published code: {facts.code_licence}; of weights: {facts.weights_licence}.",
            file=sys.stderr,
        )
    return found


__all__ = ["load"]
