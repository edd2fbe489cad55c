"""Class names and templates of zero-shot classification, from files or from open_clip's lists."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from lumiray.errors import UserError


@dataclass(frozen=True)
class Classes:
    """What a zero-shot classifier is made of."""

    names: tuple[str, ...]
    templates: tuple[str, ...]


def read_classes(class_names: str | None, templates: str | None) -> Classes | None:
    """The classes that the options name (openai's templates if none are given), or None.

    Raises:
        UserError: a file that cannot be read, or templates without classes.
    """
    if class_names is None:
        if templates is not None:
            raise UserError("Templates of zero-shot classification need class names to fill in.")
        return None
    return Classes(tuple(read_class_names(class_names)), tuple(read_templates(templates or "openai")))


def read_class_names(source: str) -> list[str]:
    """Class names of a file, one per line, or `imagenet` for open_clip's cleaned list of 1,000.

    Raises:
        UserError: no such file, an empty one, not UTF-8, or a name twice.
    """
    if source == "imagenet":
        from open_clip import IMAGENET_CLASSNAMES

        return list(IMAGENET_CLASSNAMES)
    names = _lines(source, "class names")
    most_often = Counter(names).most_common(1)
    if most_often[0][1] > 1:
        raise UserError(f"class names {source}: {most_often[0][0]!r} stands there {most_often[0][1]} times.")
    return names


def read_templates(source: str) -> list[str]:
    """Templates of a file, one per line with `{}`; or `openai` (80 of them) or `simple` (7).

    Raises:
        UserError: no such file, an empty one, not UTF-8, or a line without `{}`.
    """
    if source in ("openai", "simple"):
        import open_clip

        lists = {"openai": open_clip.OPENAI_IMAGENET_TEMPLATES, "simple": open_clip.SIMPLE_IMAGENET_TEMPLATES}
        return [template("{}") for template in lists[source]]
    templates = _lines(source, "templates")
    for number, template in enumerate(templates, 1):
        if "{}" not in template:
            raise UserError(f"templates {source}, line {number}: {template!r} has no {{}} for the class.")
    return templates


def _lines(path: str, option: str) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # editors of some systems put a mark before the first name
    except OSError as error:
        raise UserError(f"{option} {path}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{option} {path}: not text in UTF-8 (byte {error.start}).") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{option} {path}: the file is empty.")
    return lines
