"""From what a user writes to the shards that are there.

A folder, a brace or glob pattern, a list of these with commas or `::`, on disk or s3://.  Whether shards are
there is learnt from listings of their folders (one request per thousand names on S3), not by asking for each.

Listings of some stores lag behind.  A shard that they lack is asked for by itself where something else names it: a
pattern without wildcards, or the manifest of the folder.  One that they still show is found out when it is read.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

from lumiray import storage
from lumiray.data.manifest import read_manifest
from lumiray.data.remote import map_requests
from lumiray.errors import UserError, near
from lumiray.storage import Entry, without_secrets
from lumiray.uncollected import uncollected

_FEW = 8  # so many names in one folder are asked for one by one
_ROUND = 64  # names that a listing lacks are asked for so many at a time, until a few of them are missing indeed


class Listed(NamedTuple):
    """A shard that is there: its address, and the size and modification mark that it has now."""

    url: str
    size: int
    mark: str


def expand(patterns: str | Sequence[str]) -> list[str]:
    """Addresses of all shards that the patterns name, in the order of the patterns, each once.

    Raises:
        UserError: a pattern names nothing, a shard is missing (which one, how many), or the form is not known.
    """
    return [shard.url for shard in find(patterns)]


@uncollected
def find(patterns: str | Sequence[str]) -> list[Listed]:
    """As `expand`, with sizes and modification marks."""
    shards: dict[str, Listed] = {}
    for pattern in split_patterns(patterns):
        for shard in _find_one(pattern):
            shards.setdefault(shard.url, shard)
    return list(shards.values())


def split_patterns(patterns: str | Sequence[str]) -> list[str]:
    """Cut lists at `::` and at commas outside of braces.

    Raises:
        UserError: nothing is left.
    """
    pieces: list[str] = []
    for text in [patterns] if isinstance(patterns, str) else patterns:
        for part in str(text).split("::"):
            pieces.extend(piece.strip() for piece in _at_commas(part))
    pieces = [piece for piece in pieces if piece]
    if not pieces:
        raise UserError(
            "The shard pattern is empty: give a folder, a pattern such as 'data/{00000..00099}.tar', or an "
            "s3:// address of either."
        )
    return pieces


def look_up(urls: Sequence[str]) -> dict[str, Listed]:
    """Which of these files are there, folder by folder."""
    by_folder: dict[str, list[str]] = {}
    for url in urls:
        by_folder.setdefault(storage.parent(url), []).append(url)
    there: dict[str, Listed] = {}
    for folder, wanted in by_folder.items():
        names = _entries(folder, [storage.base_name(url) for url in wanted])
        for url in wanted:
            found = names.get(storage.base_name(url))
            if found is not None and not found.folder:
                there[url] = Listed(url, found.size, found.mark)
    return there


def still_there(urls: Sequence[str]) -> list[Listed]:
    """Shards that were there once, as they are now.

    Raises:
        UserError: some are gone; how many, and one of them.
    """
    there = _look_up_named(urls, written=True)
    missing = [url for url in urls if url not in there]
    if missing:
        raise UserError(f"{len(missing)} shards are not there any more, such as {without_secrets(missing[0])}.")
    return [there[url] for url in urls]


def _look_up_named(urls: Sequence[str], written: bool = False) -> dict[str, Listed]:
    """As `look_up`, for shards that somebody names: those on S3 that a listing lacks are asked for one by one.

    Args:
        written: they were all there once; a store that does not know one yet is asked again.
    """
    there = look_up(urls)
    return there | _unlisted([url for url in urls if url not in there], written)


def _unlisted(urls: Sequence[str], written: bool) -> dict[str, Listed]:
    """Which of the shards among these files are there although a listing lacks them; none on a disk.

    Some in a row that are not there either are enough to take the others for missing too: they may be very many.
    """
    shards = [url for url in urls if storage.is_s3(url) and url.endswith(".tar")]
    there: dict[str, Listed] = {}
    for start in range(0, len(shards), _ROUND):
        part = shards[start : start + _ROUND]
        found = list(map_requests(partial(_entry, listed=written), part, remote=True))
        there |= {url: Listed(url, one.size, one.mark) for url, one in zip(part, found, strict=True) if one is not None}
        if found.count(None) >= _FEW:
            break
    return there


def refuse_changed(shard: Listed) -> None:
    """Stop where a shard is not the one that was listed: it was replaced since, or the listing was an old one.

    Raises:
        UserError: names it, with its size then and now.
    """
    now = storage.entry(shard.url, listed=True)
    if (now.size, now.mark) != (shard.size, shard.mark):
        raise UserError(
            f"Shard {without_secrets(shard.url)} was changed while the run was reading it "
            f"({shard.size} bytes before, {now.size} now). Put the old file back, or start anew."
        )


def _entry(url: str, listed: bool = False) -> Entry | None:
    """A file, or None where there is none; a bucket that is not there is an error."""
    try:
        return storage.entry(url, listed)
    except storage.NoBucket:
        raise
    except storage.NotThere:
        return None


def _entries(folder: str, names: Sequence[str]) -> dict[str, Entry]:
    if len(names) <= _FEW:
        found = {name: _entry(storage.join(folder, name)) for name in names}
        return {name: one for name, one in found.items() if one is not None}
    prefix = os.path.commonprefix(list(names))  # noqa: RUF071  # of characters: what S3 narrows a listing by
    entries = storage.list_entries(folder, prefix=prefix)
    return {each.name: each for each in entries}


def _find_one(pattern: str) -> list[Listed]:
    _refuse_foreign(pattern)
    urls = _braces(pattern)
    plain = [url for url in urls if not _is_glob(url)]
    there = _look_up_named(plain)
    shards: list[Listed] = []
    missing: list[str] = []
    for url in urls:
        if url in there:
            shards.append(there[url])
        elif _is_glob(url):
            shards.extend(_glob(url))
        else:
            inside = None if url.endswith(".tar") else _folder(url)
            shards.extend(inside or [])
            if inside is None:
                missing.append(url)
    if missing:
        raise UserError(_missing(missing, len(urls), pattern))
    if not shards:
        raise UserError(f"No shards match {without_secrets(pattern)}: there is no .tar file. Check folder and name.")
    return shards


def _folder(url: str) -> list[Listed] | None:
    """All shards directly in a folder, or None if there is no such folder."""
    entries = storage.list_entries(url)
    head = storage.join(url, "")
    tars = [
        Listed(head + name, size, mark)
        for name, size, mark, folder in entries
        if name.endswith(".tar") and not folder and not name.startswith(".")
    ]
    shards = _with_unlisted(url, tars)
    if not entries and not shards and (storage.is_s3(url) or not os.path.isdir(storage.local_path(url))):
        return None
    if not shards:
        raise UserError(f"The folder {without_secrets(url)} holds no .tar file. Shards are plain .tar archives.")
    return shards


def _with_unlisted(folder: str, listed: list[Listed], pattern: str = "*.tar") -> list[Listed]:
    """Shards of a folder with those on S3 that its listing lacks although its manifest names them, sorted by name."""
    if not storage.is_s3(folder):
        return listed
    try:
        manifest = read_manifest(folder)
    except UserError:  # damaged; who needs it to be whole says so
        manifest = None
    if manifest is None:
        return listed
    known = {storage.base_name(shard.url) for shard in listed}
    named = [one.name for one in manifest.shards if one.name not in known and "/" not in one.name]
    lacking = [storage.join(folder, name) for name in named if fnmatch.fnmatchcase(name, pattern)]
    return sorted([*listed, *_unlisted(lacking, written=True).values()], key=lambda shard: shard.url)


def _glob(url: str) -> list[Listed]:
    """Shards that match; `*`, `?` and `[]` stand for parts of one name, in folders too, hidden ones aside."""
    head, parts = _literal_head(url)
    folders = [head]
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        shards: list[Listed] = []
        below: list[str] = []
        for folder in folders:
            found: list[Listed] = []
            literal = re.split(r"[*?\[]", part, maxsplit=1)[0]
            for each in storage.list_entries(folder, prefix=literal):
                hidden = each.name.startswith(".") and not part.startswith(".")
                if fnmatch.fnmatchcase(each.name, part) and each.folder != last and not hidden:
                    address = storage.join(folder, each.name)
                    found.append(Listed(address, each.size, each.mark))
                    below.append(address)
            if last:
                shards += _with_unlisted(folder, [one for one in found if one.url.endswith(".tar")], part)
        if last:
            return shards
        folders = below
    return []


def _literal_head(url: str) -> tuple[str, list[str]]:
    """The longest folder without wildcards, and the parts after it."""
    scheme = "s3://" if storage.is_s3(url) else ""
    parts = url[len(scheme) :].split("/")
    first = next(number for number, part in enumerate(parts) if _is_glob(part))
    head = scheme + "/".join(parts[:first])
    return head or ("/" if url.startswith("/") else "."), [part for part in parts[first:] if part]


def _braces(pattern: str) -> list[str]:
    if "{" not in pattern and "}" not in pattern:
        return [pattern]
    from braceexpand import braceexpand

    try:
        return list(braceexpand(pattern, escape=False))
    except ValueError:
        raise UserError(f"The braces of {without_secrets(pattern)} do not close: write {{00000..00099}}.") from None


def _is_glob(text: str) -> bool:
    return any(character in text for character in "*?[")


def _refuse_foreign(pattern: str) -> None:
    if pattern.startswith("pipe:"):
        raise UserError("pipe: addresses run commands and are not read: give files, folders or s3:// addresses.")
    if not storage.is_s3(pattern):
        storage.local_path(pattern)


def _missing(missing: Iterable[str], wanted: int, pattern: str) -> str:
    names = [without_secrets(url) for url in missing]
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    if wanted == 1:
        folder = storage.parent(next(iter(missing)))
        known = [each.name for each in storage.list_entries(folder)]
        return f"There is no shard {shown}.{near(storage.base_name(names[0]), known)} Check the address."
    return (
        f"{len(names)} of the {wanted} shards of {without_secrets(pattern)} are missing: {shown}. "
        "Fetch them, or change the pattern."
    )


def _at_commas(text: str) -> list[str]:
    pieces, depth, start = [], 0, 0
    for place, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if character == "," and depth <= 0:
            pieces.append(text[start:place])
            start = place + 1
    return [*pieces, text[start:]]
