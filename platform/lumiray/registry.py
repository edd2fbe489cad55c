"""Systems by name, found without importing any of them.

A folder of `lumizoo` with a `system.py` is a system; its name is the folder's, hyphens and underscores alike.
Packages of third parties add theirs through the entry-point group `lumiray.systems` (name -> module path of a
package laid out in the same way: `config.py` with one configuration class, `system.py` with one System).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from lumiray.errors import UserError, near
from lumiray.system import System

GROUP = "lumiray.systems"


@cache
def packages() -> dict[str, str]:
    """Every system's name -> the package that holds it."""
    found: dict[str, str] = {}
    zoo = importlib.util.find_spec("lumizoo")
    for place in zoo.submodule_search_locations or () if zoo else ():
        for file in sorted(Path(place).glob("*/system.py")):
            found[file.parent.name.replace("_", "-")] = f"lumizoo.{file.parent.name}"
    for entry in importlib.metadata.entry_points(group=GROUP):
        found[entry.name.replace("_", "-")] = entry.value
    return found


def slugs() -> list[str]:
    """Names of all systems, sorted."""
    return sorted(packages())


def _package(slug: str) -> str:
    name = slug.lower().replace("_", "-")
    if name not in packages():
        raise UserError(f"There is no system {slug!r}; there are {', '.join(slugs())}.{near(name, slugs())}")
    return packages()[name]


def config_class(slug: str) -> type:
    """The dataclass of a system's settings, without importing torch.

    Raises:
        UserError: no such system.
    """
    return _marked(importlib.import_module(f"{_package(slug)}.config"), "CONFIG")


def system_class(slug: str) -> type[System]:
    """The class of a system.

    Raises:
        UserError: no such system.
    """
    return _marked(importlib.import_module(f"{_package(slug)}.system"), "SYSTEM")


def _marked(module: Any, name: str) -> Any:
    try:
        return getattr(module, name)
    except AttributeError:
        raise TypeError(f"{module.__name__} does not say which class it offers: set {name} = ...") from None


def system(slug: str, config: Any = None, **fields: Any) -> System:
    """A system with the given settings; nothing is built yet.

    Args:
        config: an instance of its configuration class; or leave it out and give fields by name.

    Raises:
        UserError: no such system, or no such field.
    """
    if config is None:
        kind = config_class(slug)
        known = list(getattr(kind, "__dataclass_fields__", {}))
        for name in fields:
            if name not in known:
                raise UserError(f"{slug} has no setting {name!r}.{near(name, known)}")
        config = kind(**fields)
    return system_class(slug)(config)
