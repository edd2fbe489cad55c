"""HTML pages that need no server and no other file, from templates beside this file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

HERE = Path(__file__).parent


def page(template: str, folder: Path = HERE, **values: Any) -> bytes:
    """A filled template; whatever is put in is escaped.

    Args:
        folder: where the template lies; what is common to all pages lies beside this file.
    """
    loader = jinja2.FileSystemLoader([folder, HERE], encoding="utf-8")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template(template).render(**values).encode()
