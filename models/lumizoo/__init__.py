"""lumizoo: published systems, one folder each.  Usable without a cluster: `lumizoo.load("clip")`."""

from __future__ import annotations

from typing import Any


def load(slug: str, **settings: Any) -> Any:
    """A system with its networks built, in eval mode; Ray is never imported.

    Args:
        slug: the system's name, such as `clip`.
        settings: fields of its configuration, such as `model` and `weights`.

    Raises:
        lumiray.errors.UserError: no such system, setting or weights.
    """
    from lumiray.registry import system

    found = system(slug, **settings)
    found.build(found.stages()[0])
    found.networks.eval()
    return found


__all__ = ["load"]
