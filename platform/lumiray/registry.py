"""Systems by name, found without importing any of them.

A folder of `lumizoo` with a `system.py` is a system; its name is the folder's, hyphens and underscores alike.
Packages of third parties add theirs through the entry-point group `lumiray.systems` (name -> module path of a
package laid out in the same way: `config.py` with one configuration class, `system.py` with one System).

A system that is not trained but fitted to each picture by itself has a `fit.py` in place of `system.py` (`fitted.py`
says what is in it), and the entry-point group `lumiray.fitted`.  Either may say facts about itself in an `about.py`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Container
from functools import cache
from pathlib import Path
from typing import Any

from lumiray.about import About
from lumiray.errors import UserError, near
from lumiray.fitted import Fit
from lumiray.system import System

GROUPS = {"system": "lumiray.systems", "fit": "lumiray.fitted"}  # by the module that a package is found by


@cache
def packages(module: str = "system") -> dict[str, str]:
    """Every system's name -> the package that holds it.

    Args:
        module: `system` for those that are trained, `fit` for those that are fitted to each picture.
    """
    found: dict[str, str] = {}
    zoo = importlib.util.find_spec("lumizoo")
    for place in zoo.submodule_search_locations or () if zoo else ():
        for file in sorted(Path(place).glob(f"*/{module}.py")):
            found[file.parent.name.replace("_", "-")] = f"lumizoo.{file.parent.name}"
    for entry in importlib.metadata.entry_points(group=GROUPS[module]):
        found[entry.name.replace("_", "-")] = entry.value
    return found


def slugs(module: str = "system") -> list[str]:
    """Names of all systems that are trained, or of those that are fitted to each picture (`fit`), sorted."""
    return sorted(packages(module))


def folder(slug: str) -> Path:
    """Where the files of a trained system lie, without importing it.

    Raises:
        UserError: no such system.
    """
    found = importlib.util.find_spec(_package(slug))
    return Path(next(iter(found.submodule_search_locations or ()))) if found else Path()


def _package(slug: str, module: str = "system") -> str:
    name, known = slug.lower().replace("_", "-"), packages(module)
    if name in known:
        return known[name]
    if name in packages("fit"):
        raise UserError(f"{name} is not trained: it is fitted to each picture by jobs/restore_zero_shot.py.")
    if name in packages():
        raise UserError(f"{name} is trained, not fitted to a picture; fitted are {', '.join(slugs(module))}.")
    raise UserError(f"There is no system {slug!r}; there are {', '.join(slugs(module))}.{near(name, slugs(module))}")


def config_class(slug: str, module: str = "system") -> type:
    """The dataclass of a system's settings, without importing torch.

    Args:
        module: `fit` where a system is meant that is fitted to each picture.

    Raises:
        UserError: no such system.
    """
    return _marked(importlib.import_module(f"{_package(slug, module)}.config"), "CONFIG")


def kind_of(slug: str) -> str:
    """`system` for one that is trained, `fit` for one that is fitted to each picture.

    Raises:
        UserError: no such system.
    """
    name = slug.lower().replace("_", "-")
    kind = next((module for module in GROUPS if name in packages(module)), None)
    if kind is None:
        everything = sorted(slugs() + slugs("fit"))
        raise UserError(f"There is no system {slug!r}; there are {', '.join(everything)}.{near(name, everything)}")
    return kind


def about(slug: str) -> About | None:
    """What a system, trained or fitted, says about itself, without importing torch; None where it says nothing.

    Raises:
        UserError: no such system.
    """
    module = f"{_package(slug, kind_of(slug))}.about"
    if importlib.util.find_spec(module) is None:
        return None
    return _marked(importlib.import_module(module), "ABOUT")


def recognised(names: Container[str]) -> list[str]:
    """Systems whose checkpoints hold tensors of these names."""
    found = [(slug, about(slug)) for slug in sorted(slugs() + slugs("fit"))]
    return [slug for slug, one in found if one and one.tensors and all(name in names for name in one.tensors)]


def fit_function(slug: str) -> Fit:
    """What fits a system to pictures.

    Raises:
        UserError: no such system.
    """
    return _marked(importlib.import_module(f"{_package(slug, 'fit')}.fit"), "FIT")


def system_class(slug: str) -> type[System]:
    """The class of a system.

    Raises:
        UserError: no such system.
    """
    return _marked(importlib.import_module(f"{_package(slug)}.system"), "SYSTEM")


UNABLE = {"restore": "restores no pictures", "ground": "grounds no phrases"}  # what is said of other systems


def require_use(slug: str, use: str) -> None:
    """See that a trained system can be used in a way.

    Args:
        use: a key of `UNABLE`.

    Raises:
        UserError: no such system, or it cannot; names those that can.
    """

    def can(one: str) -> bool:
        return getattr(system_class(one), use) is not getattr(System, use)  # a method of its own

    if not can(slug):
        able = [one for one in slugs() if can(one)]
        raise UserError(f"{slug} {UNABLE[use]}; these do: {', '.join(able)}.")


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
