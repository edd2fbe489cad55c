"""Which pictures of a folder are one row, because they are named as parts of one: `key.part.ext` (`records`)."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from lumiray.data.parts import PAIR, PICTURES
from lumiray.errors import UserError
from lumiray.storage import without_secrets

_MASK = "seg"


def rows_by_name(folder: str, files: Collection[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a folder: stem, and pictures by role, "" for one that is a row of its own or that `seg` belongs to.

    Parts are put together only where a row becomes whole: `lq` and `gt`, exposures from 0 without a hole, or a
    picture and its `seg.png`.  A picture with a text of its full name is not a part: `v1.0.png` beside `v1.0.txt`.

    Args:
        folder: for messages.
        files: names of all files in it, sorted.

    Raises:
        UserError: two pictures claim one role.
    """
    row_of = {name: row for row in _whole_rows(folder, files) for name in row[1].values()}
    given: set[str] = set()
    for name in filter(is_picture, files):
        if name not in row_of:
            yield stem_of(name), {"": name}
        elif (row := row_of[name])[0] not in given:
            given.add(row[0])
            yield row


def is_picture(name: str) -> bool:
    """Whether a file's name ends as a picture's."""
    return name.lower().rpartition(".")[2] in PICTURES and "." in name


def stem_of(name: str) -> str:
    """A file's name without what follows its last dot."""
    return name.rpartition(".")[0]


def _whole_rows(folder: str, files: Collection[str]) -> Iterator[tuple[str, dict[str, str]]]:
    found: dict[str, dict[str, list[str]]] = {}
    for name in filter(is_picture, files):
        stem = stem_of(name)
        key, _, role = stem.rpartition(".")
        if key and _is_role(role, name) and f"{stem}.txt" not in files and f"{stem}.json" not in files:
            found.setdefault(key, {}).setdefault(role, []).append(name)
    for key, parts in found.items():
        roles = parts
        if set(parts) == {_MASK}:
            own = [f"{key}.{kind}" for lower in PICTURES for kind in (lower, lower.upper())]
            roles = {"": [name for name in own if name in files], **parts}
        if not _is_whole(roles):
            continue
        for role, names in roles.items():
            if len(names) > 1:
                raise UserError(
                    f"{without_secrets(folder)} holds both {names[0]} and {names[1]}, and only one of them can be "
                    f"{role or 'the picture'} of {key}: rename or remove the other."
                )
        yield key, {role: names[0] for role, names in roles.items()}


def _is_role(role: str, name: str) -> bool:
    if role == _MASK:
        return name.lower().endswith(".png")
    return role in PAIR or (role.isascii() and role.isdecimal())


def _is_whole(roles: dict[str, list[str]]) -> bool:
    if _MASK in roles:
        return bool(roles.get(""))
    return set(roles) == set(PAIR) or (len(roles) > 1 and set(roles) == {str(number) for number in range(len(roles))})
