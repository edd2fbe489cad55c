"""What `lumiray systems` prints: every system with its facts, and one of them with its settings."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from lumiray.about import About
from lumiray.registry import about, config_class, fit_function, kind_of, slugs, system

SILENT = About("", "says nothing about itself", "not said", "not said", "not said", "not said", {})
"""Of a package without an `about.py`."""


def systems() -> str:
    """Every system in a few lines, without importing torch."""
    return "\n".join("\n".join(_lines(slug)) for slug in sorted(slugs() + slugs("fit")))


def _lines(slug: str) -> Iterator[str]:
    facts = about(slug) or SILENT
    yield f"{slug}: {facts.task}"
    yield f"    stages   {_stages(slug, facts)}"
    yield f"    figures  {'; '.join(f'{name}: {value}' for name, value in list(facts.figures.items())[:1]) or 'none'}"
    yield f"    state    {_state(facts)}"


def _stages(slug: str, facts: About) -> str:
    if kind_of(slug) == "fit":
        return "none: fitted to each picture by itself"
    return ", ".join(f"{name} (rows: {record})" for name, record in facts.stages.items()) or "not said"


def _state(facts: About) -> str:
    if not facts.verified:
        return "nothing compared with the published code"
    return f"agrees with the published code in {', '.join(facts.verified)}"


def one_system(slug: str) -> str:
    """A system's facts, the parameters of its networks, and every setting with its default and where that comes from.

    Raises:
        UserError: no such system.
    """
    kind = kind_of(slug)
    facts = about(slug) or SILENT
    rows = {
        "system": f"{slug} ({facts.name})" if facts.name else slug,
        "task": facts.task,
        "stages": _stages(slug, facts),
        "paper": facts.paper,
        "code": f"{facts.code}; licence: {facts.code_licence}",
        "weights": f"licence: {facts.weights_licence}",
        "state": _state(facts),
        "parameters": _fitted_parameters(slug) if kind == "fit" else _parameters(slug),
    }
    lines = [f"{name:12s}{value}" for name, value in rows.items()]
    figures = [f"    {name}: {value}" for name, value in facts.figures.items()]
    lines += ["", "published figures", *(figures or ["    none"])]
    lines += ["", "settings"]
    for name, default, words in settings(config_class(slug, kind)):
        lines += [f"    --{name.replace('_', '-')} {default}", f"        {words}"]
    return "\n".join(lines)


def settings(kind: type) -> Iterator[tuple[str, str, str]]:
    """Name, default and explanation of every field of a configuration class; its text below the field says them."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    below: dict[str, str] = {}
    for one, after in pairwise([*getattr(definition, "body", []), None]):
        if isinstance(one, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            below[ast.unparse(one.target)] = str(after.value.value)
    for field in dataclasses.fields(kind):
        yield field.name, _shown(field.default), below.get(field.name, "")


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return " ".join(map(str, default))
    return str(default).lower() if default is None or isinstance(default, bool) else str(default)


def _parameters(slug: str) -> str:
    """Counted on the networks of every stage, with default settings, built without memory for their values."""
    from lumiray.train.without_memory import networks_without_memory

    made = system(slug)
    counted: dict[str, int] = {}
    for stage in made.stages():
        networks = networks_without_memory(made, stage)
        counted |= {name: sum(one.numel() for one in network.parameters()) for name, network in networks.items()}
    return ", ".join(f"{count:,} in {name}" for name, count in counted.items())


def _fitted_parameters(slug: str) -> str:
    """Counted on what a fit to a black picture of a few pixels leaves."""
    import torch

    (fitted,) = fit_function(slug)(torch.zeros(1, 3, 4, 4))
    return f"{sum(one.numel() for one in fitted.weights.values()):,} for a picture in colour"
