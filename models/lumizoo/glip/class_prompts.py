"""A file that tells how texts speak of classes whose names alone say too little (card glip, Inference: ODinW)."""

from __future__ import annotations

from pathlib import Path

import yaml

from lumiray.errors import UserError
from lumizoo.glip.prompts import ClassName

PARTS = ("prefix", "name", "suffix")


def class_prompts_in(path: str) -> dict[str, ClassName]:
    """What the file tells of each class that it names, such as `stingray: {suffix: " which is flat and round"}`.

    Prefix and suffix are put around the name as they are, blanks included; `name` replaces the name of the shards.

    Raises:
        UserError: the file cannot be read, or is of another form.
    """
    option = f"--class-prompts {path}"
    try:
        given = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{option}: cannot be read ({type(error).__name__}).") from None
    example = 'Write one line for each class, such as NAME: {prefix: "a ", suffix: " which is flat"}.'
    if not isinstance(given, dict) or not given:
        raise UserError(f"{option} names no class. {example}")
    found = {}
    for name, parts in given.items():
        if not isinstance(name, str) or not isinstance(parts, dict) or not parts:
            raise UserError(f"{option}: {name!r} is not a name with its parts. {example}")
        for part, words in parts.items():
            if part not in PARTS or not isinstance(words, str):
                raise UserError(f"{option}: {name!r} has {part!r}: {words!r}; it may have {', '.join(PARTS)} as texts.")
        found[name] = ClassName(**{"name": name} | parts)
    return found
