"""Writing shards: the same input gives the same bytes, and a set is there whole or marked as unfinished.

Pictures are stored as they are, never compressed again.  Beside the shards lie `sizes.json` (rows per shard, in
open_clip's form), the index of row offsets, and, written last, `manifest.json` with counts, sizes and checksums.

    make_shards("photos.csv", "shards/")             what `lumiray shards make` runs
    write_shards(rows, "shards/")                    (key, parts) from anywhere else
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import IO, Any

import numpy as np

from lumiray import storage
from lumiray.data.catalog import Catalog, Rows
from lumiray.data.header import BLOCK, padded
from lumiray.data.parts import PICTURES, picture_kind
from lumiray.data.table import Listed, listed_rows
from lumiray.data.tar import split_name
from lumiray.errors import UserError
from lumiray.storage import without_secrets

MANIFEST = "manifest.json"
SIZES = "sizes.json"
_UNFINISHED = ".lumiray-unfinished"
_FORM = "lumiray-shards-1"


@dataclass(frozen=True)
class WrittenShard:
    """One shard: base name, rows, bytes of the file, SHA-256 of the file."""

    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What was written.

    Args:
        output: folder of the shards.
        shards: in order.
        skipped: rows of the source that were left out.
    """

    output: str
    shards: tuple[WrittenShard, ...]
    skipped: int = 0

    @property
    def rows(self) -> int:
        """Rows of all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.bytes for shard in self.shards)

    def __str__(self) -> str:
        left_out = f", {self.skipped} left out" if self.skipped else ""
        size = f"{self.bytes / 1e6:.1f} MB"
        return f"{self.rows} rows in {len(self.shards)} shards ({size}{left_out}) in {without_secrets(self.output)}"


def make_shards(
    source: str,
    output: str,
    *,
    rows_per_shard: int = 10000,
    max_bytes: int = 1 << 30,
    skip_missing: bool = False,
) -> Manifest:
    """Turn a table of pictures and captions, or a folder of them, into shards.

    Args:
        source: .csv, .tsv, .parquet, .jsonl, or a folder (see `table.listed_rows`).
        output: folder, local or s3://, without shards of another making.
        rows_per_shard, max_bytes: a shard is closed at whichever comes first.
        skip_missing: leave out rows without picture or caption and count them; else they are an error, and
            nothing is written.

    Raises:
        UserError: as said above; a picture or caption is missing (which row), or the output is taken.
    """
    if not skip_missing:
        for listed in listed_rows(source):  # all rows first: a mistake in the last one costs no writing
            problem = _problem(listed)
            if problem:
                raise UserError(f"{listed.where}: {problem}. Mend the row, or leave such rows out with --skip-missing.")
    skipped = [0]
    rows = _table_rows(source, skip_missing, skipped)
    manifest = write_shards(rows, output, rows_per_shard=rows_per_shard, max_bytes=max_bytes, skipped=skipped)
    return manifest


def write_shards(
    rows: Iterable[tuple[str, Mapping[str, bytes]]],
    output: str,
    *,
    rows_per_shard: int = 10000,
    max_bytes: int = 1 << 30,
    skipped: list[int] | None = None,
) -> Manifest:
    """Write (key, parts) rows as shards `00000.tar`, `00001.tar`, ...

    Args:
        rows: key, and part name -> bytes, as `Row` has them.
        skipped: [count] of rows that the iterator left out, read when it is at its end.

    Raises:
        UserError: sizes below 1, no rows, an output that holds other shards.
        ValueError: a key or part name that would not be read back as it is.
    """
    if rows_per_shard < 1 or max_bytes < 1:
        raise UserError("Shards need at least one row and one byte: check --rows-per-shard and --max-bytes.")
    _take(output)
    written: list[WrittenShard] = []
    catalog = Catalog(output, None)
    known = []
    waiting = _Lookahead(rows)
    try:
        while waiting.more():
            name = f"{len(written):05d}.tar"
            url = storage.join(output, name)
            with _staged(url) as file:
                shard = _ShardFile(file)
                while waiting.more() and shard.has_room(waiting.size(), rows_per_shard, max_bytes):
                    shard.add(*waiting.take())
                shard.close()
            written.append(WrittenShard(name, len(shard.starts), shard.size, shard.digest.hexdigest()))
            known.append((url, Rows(np.array(shard.starts, np.int64), np.array(shard.lengths, np.int64))))
        if not written:
            raise UserError(f"There are no rows to write to {without_secrets(output)}.")
    except BaseException:
        for done in written:
            storage.remove_tree(storage.join(output, done.name))
        storage.remove_tree(storage.join(output, _UNFINISHED))
        raise
    catalog.keep(known)
    manifest = Manifest(output, tuple(written), skipped[0] if skipped else 0)
    _write_json(storage.join(output, SIZES), {shard.name: shard.rows for shard in written})
    summary = {"form": _FORM, "rows": manifest.rows, "bytes": manifest.bytes, "skipped": manifest.skipped}
    _write_json(storage.join(output, MANIFEST), summary | {"shards": [asdict(shard) for shard in written]})
    storage.remove_tree(storage.join(output, _UNFINISHED))
    return manifest


def read_manifest(folder: str) -> Manifest | None:
    """The manifest that lies beside shards, or None; raises `UserError` where it is damaged."""
    url = storage.join(folder, MANIFEST)
    try:
        found = json.loads(storage.read_bytes(url))
        if found.get("form") != _FORM:
            return None
        return Manifest(folder, tuple(WrittenShard(**shard) for shard in found["shards"]), int(found["skipped"]))
    except storage.NotThere:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{without_secrets(url)} is damaged: remove it, or write the shards again.") from None


def _take(output: str) -> None:
    """Claim a folder for writing; what an interrupted writer left there is removed."""
    names = storage.list_names(output)
    shards = [name for name in names if name.endswith(".tar")]
    if _UNFINISHED in names:
        for name in [*shards, SIZES]:
            storage.remove_tree(storage.join(output, name))
    elif shards or MANIFEST in names:
        raise UserError(
            f"{without_secrets(output)} already holds shards ({len(shards)} .tar files): give another folder, or "
            "remove them."
        )
    storage.write_atomically(storage.join(output, _UNFINISHED), b"shards are being written here\n")


def _table_rows(source: str, skip: bool, skipped: list[int]) -> Iterator[tuple[str, dict[str, bytes]]]:
    number = 0
    for listed in listed_rows(source):
        problem = _problem(listed)
        parts: dict[str, bytes] = {}
        if not problem:
            parts, problem = _parts(listed)
        if problem and not skip:
            raise UserError(f"{listed.where}: {problem}. Mend the row, or leave such rows out with --skip-missing.")
        if problem:
            skipped[0] += 1
            continue
        yield f"{number:09d}", parts
        number += 1


def _problem(listed: Listed) -> str | None:
    """What is missing in a row, as far as it can be told without reading the picture."""
    if not listed.picture:
        return "there is no picture"
    if listed.caption is None or not listed.caption.strip():
        return "there is no caption"
    if not storage.is_s3(listed.picture) and not os.path.isfile(storage.local_path(listed.picture)):
        return f"the picture {listed.picture} is not there"
    return None


def _parts(listed: Listed) -> tuple[dict[str, bytes], str | None]:
    """Parts of a row, or the reason why there are none."""
    try:
        data = storage.read_bytes(listed.picture)
    except storage.NotThere:
        return {}, f"the picture {without_secrets(listed.picture)} is not there"
    kind = storage.base_name(listed.picture).lower().rpartition(".")[2]
    if kind not in PICTURES:
        kind = picture_kind(data) or ""
    if not kind or not data:
        return {}, f"{without_secrets(listed.picture)} is no picture"
    parts = {kind: data, "txt": (listed.caption or "").encode("utf-8")}
    if listed.json is not None:
        parts["json"] = listed.json
    elif listed.more:
        text = json.dumps(dict(listed.more), sort_keys=True, ensure_ascii=False, default=str)
        parts["json"] = text.encode("utf-8", "replace")
    return parts, None


class _Lookahead:
    """Rows with the next one already at hand, to see whether it still fits."""

    def __init__(self, rows: Iterable[tuple[str, Mapping[str, bytes]]]) -> None:
        self._rows = iter(rows)
        self._next = next(self._rows, None)

    def more(self) -> bool:
        return self._next is not None

    def size(self) -> int:
        assert self._next is not None
        return sum(BLOCK + padded(len(data)) for data in self._next[1].values())

    def take(self) -> tuple[str, Mapping[str, bytes]]:
        assert self._next is not None
        row, self._next = self._next, next(self._rows, None)
        return row


class _ShardFile:
    """A tar archive that grows row by row, in bytes that depend on its rows alone."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0
        self.digest = hashlib.sha256()
        self.starts: list[int] = []
        self.lengths: list[int] = []

    def has_room(self, size: int, rows_per_shard: int, max_bytes: int) -> bool:
        return not self.starts or (len(self.starts) < rows_per_shard and self.size + size <= max_bytes)

    def add(self, key: str, parts: Mapping[str, bytes]) -> None:
        start = self.size
        if not parts:
            raise ValueError(f"row {key!r} has no parts")
        for part in sorted(parts):
            name = f"{key}.{part}"
            if split_name(name) != (key, part):
                raise ValueError(f"key {key!r} with part {part!r} would not be read back as it is")
            info = tarfile.TarInfo(name)  # its defaults: no owner, time 0, rights 0644
            info.size = len(parts[part])
            self._write(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
            self._write(parts[part])
            self._write(bytes(padded(info.size) - info.size))
        self.starts.append(start)
        self.lengths.append(self.size - start)

    def close(self) -> None:
        self._write(bytes(2 * BLOCK))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.digest.update(data)
        self.size += len(data)


@contextmanager
def _staged(url: str) -> Iterator[IO[bytes]]:
    """A file that appears at its address only when it was written to the end."""
    if not storage.is_s3(url):
        with storage.clear_errors(url, "write"), storage.whole_file(storage.local_path(url)) as file:
            yield file
        return
    with tempfile.NamedTemporaryFile(suffix=".tar") as temporary:
        yield temporary
        temporary.flush()
        storage.put_file(temporary.name, url)


def _write_json(url: str, value: Any) -> None:
    storage.write_atomically(url, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())
