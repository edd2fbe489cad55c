"""Pictures in folders, on disk or S3: each with a text of its name beside it, or in pairs below `lq/` and `gt/`.

    photos/a.jpg  photos/a.txt  photos/b/c.png  photos/b/c.json       each picture is a row
    set/lq/a.png  set/gt/a.png  set/lq/b/c.jpg  set/gt/b/c.png        two pictures of one name are a row
    set/a.0.png  set/a.1.png  set/b.lq.png  set/b.gt.png              named as parts of a row, they are one
    set/c.jpg  set/c.seg.png  set/c.txt                               (`records`), with the text of its name

Names that begin with a dot are left out, and links to folders are not followed: they may lead in circles.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice

from lumiray import storage
from lumiray.data.named_parts import is_picture, rows_by_name, stem_of
from lumiray.data.parts import PAIR, PICTURES
from lumiray.data.remote import map_requests
from lumiray.data.table import Listed
from lumiray.errors import UserError
from lumiray.storage import Entry, without_secrets

_TEXTS_READ = 1024  # at a time


def folder_rows(folder: str) -> Iterator[Listed]:
    """Rows of a folder, in pairs where it holds both `lq/` and `gt/`; by name, what lies deeper after its folder.

    Raises:
        UserError: there are no pictures, a text is not UTF-8, or two pictures claim the same place in a pair.
    """
    subfolders = {each.name for each in storage.list_entries(folder) if each.folder}
    if subfolders.issuperset(PAIR):
        rows = _pairs({role: storage.join(folder, role) for role in PAIR})
    else:
        rows = _pictures(folder)
    first = next(rows, None)
    if first is None:
        raise UserError(f"The folder {without_secrets(folder)} holds no pictures ({', '.join(PICTURES)}).")
    yield first
    yield from rows


def _pictures(folder: str) -> Iterator[Listed]:
    files, below = _inside(folder)
    rows = rows_by_name(folder, files)
    while batch := list(islice(rows, _TEXTS_READ)):
        stems = [storage.join(folder, stem) for stem, _ in batch]
        texts = map_requests(partial(_beside, files=files), stems, storage.is_s3(folder))
        for (_, names), (text, more) in zip(batch, texts, strict=True):
            urls = {role: storage.join(folder, name) for role, name in names.items()}
            entries = {role: files[name] for role, name in names.items()}
            yield Listed(next(iter(urls.values())), urls, text, json=more, entries=entries)
    for name in below:
        yield from _pictures(storage.join(folder, name))


def _pairs(folders: Mapping[str, str]) -> Iterator[Listed]:
    """Rows of folders of like layout, given by role; where a partner is missing its address is empty."""
    stems: dict[str, dict[str, Entry]] = {}
    subfolders: set[str] = set()
    for role, folder in folders.items():
        files, below = _inside(folder)
        subfolders.update(below)
        for name, entry in files.items():
            if not is_picture(name):
                continue
            pair = stems.setdefault(stem_of(name), {})
            if role in pair:
                raise UserError(
                    f"{without_secrets(folder)} holds both {pair[role].name} and {name}, and only one of them can be "
                    f"{role} of a pair: rename or remove the other."
                )
            pair[role] = entry
    for stem in sorted(stems):
        pair = stems[stem]
        urls = {role: storage.join(folder, pair[role].name) if role in pair else "" for role, folder in folders.items()}
        yield Listed(next(filter(None, urls.values())), urls, entries=pair)
    for name in sorted(subfolders):
        yield from _pairs({role: storage.join(folder, name) for role, folder in folders.items()})


def _inside(folder: str) -> tuple[dict[str, Entry], list[str]]:
    """Files of a folder by name, and the names of its subfolders; both sorted."""
    entries = [each for each in storage.list_entries(folder) if not each.name.startswith(".")]
    files = {each.name: each for each in entries if not each.folder}
    return files, [each.name for each in entries if each.folder and not _is_link(storage.join(folder, each.name))]


def _is_link(url: str) -> bool:
    return not storage.is_s3(url) and os.path.islink(storage.local_path(url))


def _beside(stem: str, files: Mapping[str, Entry]) -> tuple[str | None, bytes | None]:
    """Caption and JSON of a picture, given its address without extension and the files of its folder."""
    text = more = None
    if f"{storage.base_name(stem)}.json" in files:
        more = storage.read_bytes(f"{stem}.json")
    if f"{storage.base_name(stem)}.txt" in files:
        try:
            text = storage.read_bytes(f"{stem}.txt").decode("utf-8").strip()
        except UnicodeDecodeError:
            raise UserError(f"{without_secrets(stem)}.txt is not UTF-8 text.") from None
    elif more is not None:
        try:
            text = str(json.loads(more)["caption"])
        except (ValueError, KeyError, TypeError):
            text = None
    return text, more
