"""HTML pages that need no server and no other file, from templates beside this file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2


def page(template: str, **values: Any) -> bytes:
    """A filled template; whatever is put in is escaped."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent, encoding="utf-8")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template(template).render(**values).encode()
