"""The rows of a table or folder, cut into shards before the first of them is written.

Every row is looked at, and of every picture no more than its size and modification mark: a mistake in the last row
costs no writing, and where a shard begins does not depend on who writes it.  What comes out are plans, one for each
shard, small enough to be sent to another machine, from which its bytes follow.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple

from lumiray import storage
from lumiray.data.folder import folder_rows
from lumiray.data.header import BLOCK, padded
from lumiray.data.parts import PICTURES, picture_kind
from lumiray.data.remote import map_requests
from lumiray.data.table import Listed, table_rows
from lumiray.errors import UserError
from lumiray.storage import without_secrets

NO_CAPTION = "there is no caption"
_LOOKED_AT = 1024  # rows at a time
_MAGIC_BYTES = 16  # enough for `picture_kind`


class Picture(NamedTuple):
    """A picture as it was when it was listed: address, bytes, modification mark (as in `storage.Entry`)."""

    url: str
    size: int
    mark: str


class PlannedRow(NamedTuple):
    """One row to be written.

    Args:
        where: where it stands in the source, for messages.
        pictures: by part name (`jpg`, `lq.png`).
        texts: by part name; UTF-8, with bytes that are none as surrogates.
    """

    where: str
    pictures: dict[str, Picture]
    texts: dict[str, str]

    @property
    def stored_bytes(self) -> int:
        """Bytes that it takes in an archive, headers and padding included."""
        sizes = [picture.size for picture in self.pictures.values()]
        sizes += [len(as_bytes(text)) for text in self.texts.values()]
        return sum(BLOCK + padded(size) for size in sizes)


@dataclass(frozen=True)
class ShardPlan:
    """What one shard will hold.

    Args:
        name: its base name.
        first: number of its first row in the set, from which keys follow.
        size: bytes that its rows take.
        digest: of all that its bytes follow from; another one if a picture's size or modification mark is another.
        skipped: rows of the source that were left out on the way to its last.
        packed: its rows, see `rows`.
    """

    name: str
    first: int
    size: int
    digest: str
    skipped: int
    packed: bytes

    def rows(self) -> list[PlannedRow]:
        """Its rows, in order."""
        return [
            PlannedRow(where, {part: Picture(*picture) for part, picture in pictures.items()}, texts)
            for where, pictures, texts in json.loads(zlib.decompress(self.packed))
        ]


def cut(
    source: str | Iterable[Listed], rows_per_shard: int, max_bytes: int, skip_missing: bool, captions: bool = True
) -> Iterator[ShardPlan]:
    """Plans of all shards of a table or folder, in order; one shard's rows are in memory at a time.

    Args:
        source: .csv, .tsv, .parquet, .jsonl, or a folder (`folder.folder_rows`), or rows listed by another reader.
        rows_per_shard, max_bytes: a shard is closed at whichever comes first.
        skip_missing: leave out rows without picture, partner or caption; else they are an error.
        captions: a row of one picture needs one.

    Raises:
        UserError: the source cannot be used, or a row lacks something (which row, and what mends it).
    """
    number = first = size = skipped = 0
    rows: list[PlannedRow] = []
    for listed, row in _looked_at(_listed(source) if isinstance(source, str) else source, captions):
        if isinstance(row, str):
            if not skip_missing:
                where = without_secrets(listed.where)
                alone = "; pictures alone are rows with --no-captions" if row == NO_CAPTION else ""
                raise UserError(f"{where}: {row}. Mend the row, or leave such rows out with --skip-missing{alone}.")
            skipped += 1
            continue
        stored = row.stored_bytes
        if rows and (len(rows) == rows_per_shard or size + stored > max_bytes):
            yield _plan(number, first, rows, size, skipped)
            number, first, rows, size, skipped = number + 1, first + len(rows), [], 0, 0
        rows.append(row)
        size += stored
    if rows:
        yield _plan(number, first, rows, size, skipped)


def as_bytes(text: str) -> bytes:
    """The bytes of a planned text."""
    return text.encode("utf-8", "surrogateescape")


def _plan(number: int, first: int, rows: list[PlannedRow], size: int, skipped: int) -> ShardPlan:
    described = json.dumps(rows, sort_keys=True).encode("ascii")
    digest = hashlib.blake2b(f"{first} ".encode() + described, digest_size=16).hexdigest()
    return ShardPlan(f"{number:05d}.tar", first, size, digest, skipped, zlib.compress(described, 1))


def _listed(source: str) -> Iterator[Listed]:
    return folder_rows(source) if _is_folder(source) else table_rows(source)


def _is_folder(source: str) -> bool:
    try:
        return storage.entry(source).folder
    except storage.NotThere:
        return False


def _looked_at(rows: Iterable[Listed], captions: bool) -> Iterator[tuple[Listed, PlannedRow | str]]:
    """Rows with what they will be, or with what is wrong with them; on S3 many are asked for at a time."""
    waiting = iter(rows)
    while batch := list(islice(waiting, _LOOKED_AT)):
        remote = any(storage.is_s3(url) for listed in batch for url in listed.pictures.values())
        yield from zip(batch, map_requests(partial(_planned, captions=captions), batch, remote), strict=True)


def _planned(listed: Listed, captions: bool) -> PlannedRow | str:
    problem = _lack(listed, captions)
    if problem:
        return problem
    pictures = {}
    for role, url in listed.pictures.items():
        try:
            found = listed.entries.get(role) or storage.entry(url)
            kind = "" if found.folder else _kind(url, found.size)
        except storage.NotThere:
            return f"the picture {without_secrets(url)} is not there"
        except UserError as error:
            raise UserError(f"{without_secrets(listed.where)}: {error}") from None
        except (OSError, ValueError):  # longer than a path can be, or of characters that none has
            return f"the picture {without_secrets(url)[:200]} is not there"
        if not kind:
            return f"{without_secrets(url)} is no picture"
        pictures[f"{role}.{kind}" if role else kind] = Picture(url, found.size, found.mark)
    return PlannedRow(listed.where, pictures, _texts(listed))


def _lack(listed: Listed, captions: bool) -> str | None:
    """What is missing in a row, as far as its source tells."""
    for role, url in listed.pictures.items():
        if not url:
            return f"there is no picture of this name in {role}/" if role else "there is no picture"
    needed = captions and len(listed.pictures) == 1  # several say themselves what is to be learnt
    if needed and (listed.caption is None or not listed.caption.strip()):
        return NO_CAPTION
    try:
        (listed.caption or "").encode("utf-8")
    except UnicodeEncodeError:
        return "the caption cannot be written as UTF-8"
    return None


def _kind(url: str, size: int) -> str:
    """The part name that a picture gets: what its name says, or else its first bytes; empty if it is none."""
    if not size:
        return ""
    kind = storage.base_name(url).lower().rpartition(".")[2]
    if kind in PICTURES:
        return kind
    return picture_kind(storage.read_range(url, 0, min(size, _MAGIC_BYTES))) or ""


def _texts(listed: Listed) -> dict[str, str]:
    texts = {} if listed.caption is None else {"txt": listed.caption}
    if listed.json is not None:
        texts["json"] = listed.json.decode("utf-8", "surrogateescape")
    elif listed.more:
        text = json.dumps(dict(listed.more), sort_keys=True, ensure_ascii=False, default=str)
        texts["json"] = text.encode("utf-8", "replace").decode("utf-8")
    return texts
