"""The index of one folder of shards, as files: one Parquet of row offsets per shard, one of counts for all.

Kept beside the shards where that can be written, for then every machine and every later run finds it; else in a
cache of this user.  Written whole or not at all, and without a lock: two writers write the same.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lumiray import storage
from lumiray.data.listing import Listed
from lumiray.data.tar import scan_shard
from lumiray.errors import UserError
from lumiray.storage import without_secrets

FOLDER = ".lumiray-index"
_SUMMARY = "summary.parquet"
_FORM = "lumiray-index-1"


@dataclass(frozen=True)
class Known:
    """One shard as it was when it was indexed.

    Args:
        name: base name.
        size, mark: as in `listing.Listed`.
        rows: number of rows.
        digest: of its row offsets.
    """

    name: str
    size: int
    mark: str
    rows: int
    digest: str


@dataclass(frozen=True)
class Rows:
    """Row offsets and lengths of one shard, int64 (n,) each."""

    offsets: np.ndarray
    lengths: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return int(self.offsets.nbytes + self.lengths.nbytes)


class Catalog:
    """The index of the shards of one folder.

    Args:
        shards_folder: where the shards are.
        index_folder: where the index of all folders is kept; None for beside the shards or the user's cache.
    """

    def __init__(self, shards_folder: str, index_folder: str | None) -> None:
        self.shards_folder = shards_folder
        self.beside = storage.join(shards_folder, FOLDER)
        named = hashlib.blake2b(_absolute(shards_folder).encode("utf-8", "surrogateescape"), digest_size=12)
        root = index_folder if index_folder is not None else _cache_root()
        self.apart = storage.join(root, named.hexdigest())
        self.in_cache = index_folder is None
        self.folders = [self.beside, self.apart] if self.in_cache else [self.apart]

    def up_to_date(
        self,
        shards: Sequence[Listed],
        scan_map: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]],
        rebuild: bool,
    ) -> list[Known]:
        """What is known of these shards, after indexing those of which nothing is.

        Raises:
            UserError: a shard has changed since it was indexed, and the index is not ours alone to rebuild.
        """
        known, home = self._summary()
        names = [storage.base_name(shard.url) for shard in shards]
        changed = [shard for name, shard in zip(names, shards, strict=True) if _is_changed(shard, known.get(name))]
        if changed and not (rebuild and self.in_cache and home == self.apart):
            first = known[storage.base_name(changed[0].url)]
            now = f"{changed[0].size} bytes, {changed[0].mark}"
            raise UserError(
                f"Shard {without_secrets(changed[0].url)} has changed since it was indexed (then {first.size} bytes, "
                f"{first.mark}; now {now}), and {len(changed) - 1} others with it. If that is meant, remove "
                f"{without_secrets(home or self.beside)}, and the index is made again; the run's order will be another."
            )
        valid = known.keys() - {storage.base_name(shard.url) for shard in changed}
        todo = [shard for name, shard in zip(names, shards, strict=True) if name not in valid]
        if todo:
            home = self._writable(known, home)
            for entry in scan_map(partial(index_shard, folder=home), todo):
                known[entry.name] = entry
            put_summary(home, known)
        return [known[name] for name in names]

    def complaints(self, shards: Sequence[Listed]) -> list[str]:
        """Shards that have changed since they were indexed, one line each."""
        known, _ = self._summary()
        changed = [shard for shard in shards if _is_changed(shard, known.get(storage.base_name(shard.url)))]
        return [f"{without_secrets(shard.url)}: has changed since it was indexed" for shard in changed]

    def keep(self, written: Sequence[tuple[str, Rows]]) -> None:
        """Index shards that were just written, whose rows are known without reading them again."""
        home = self._writable({}, None)
        known: dict[str, Known] = {}
        for url, rows in written:
            now = storage.entry(url)
            shard = Listed(url, now.size, now.mark)
            _write_rows(home, shard, rows)
            known[now.name] = Known(now.name, now.size, now.mark, len(rows.offsets), _digest(rows))
        put_summary(home, known)

    def rows(self, shard: Listed) -> Rows:
        """Row offsets of a shard: from the index, or by scanning it where no index can be reached from here."""
        for folder in self.folders:
            try:
                return _read_rows(folder, shard)
            except (storage.NotThere, storage.NoAccess):
                continue
        scan = scan_shard(shard.url)
        rows = Rows(scan.row_offsets, scan.row_lengths)
        with suppress(OSError, UserError):  # a full or read-only disk costs time here, it does not stop a run
            _write_rows(self.apart, shard, rows)
        return rows

    def _summary(self) -> tuple[dict[str, Known], str | None]:
        """What the summary says, and the folder in which it was found."""
        for folder in self.folders:
            try:
                data = storage.read_bytes(storage.join(folder, _SUMMARY))
            except (storage.NotThere, storage.NoAccess):
                continue
            known = _summary_of(data)
            if known is not None:
                return known, folder
        return {}, None

    def _writable(self, known: dict[str, Known], home: str | None) -> str:
        """The folder where the index goes on: where it was found, if that can be written, or the first that can."""
        for folder in [home] if home == self.apart else self.folders[:-1]:
            with suppress(OSError, UserError):
                put_summary(folder, known)
                return folder
        return self.apart


def index_shard(shard: Listed, folder: str) -> Known:
    """Scan one shard and keep its offsets; runs anywhere, knows nothing of the other shards.

    What an interrupted run has already kept is not scanned again.

    Raises:
        lumiray.data.tar.BadShard: it cannot be read to its end.
    """
    try:
        rows = _read_rows(folder, shard)
    except storage.NotThere:
        scan = scan_shard(shard.url)
        rows = Rows(scan.row_offsets, scan.row_lengths)
        _write_rows(folder, shard, rows)
    return Known(storage.base_name(shard.url), shard.size, shard.mark, len(rows.offsets), _digest(rows))


def _is_changed(shard: Listed, known: Known | None) -> bool:
    return known is not None and (shard.size, shard.mark) != (known.size, known.mark)


def _digest(rows: Rows) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(rows.offsets.astype("<i8").tobytes())
    digest.update(rows.lengths.astype("<i8").tobytes())
    return digest.hexdigest()


def _write_rows(folder: str, shard: Listed, rows: Rows) -> None:
    import pyarrow as pa

    about = {
        "form": _FORM,
        "shard": storage.base_name(shard.url),
        "size": str(shard.size),
        "mark": shard.mark,
    }
    schema = pa.schema([("offset", pa.int64()), ("length", pa.int64())], metadata=about)
    _put_table(pa.table([rows.offsets, rows.lengths], schema=schema), _path(folder, shard))


def _read_rows(folder: str, shard: Listed) -> Rows:
    """Raises NotThere also where the file belongs to another state of the shard."""
    path = _path(folder, shard)
    table = _table_of(storage.read_bytes(path))
    about = table.schema.metadata or {}
    for name, value in (("form", _FORM), ("size", str(shard.size)), ("mark", shard.mark)):
        if about.get(name.encode()) != value.encode():
            raise storage.NotThere(f"{path} belongs to another state of the shard")
    return Rows(table["offset"].to_numpy(), table["length"].to_numpy())


def _path(folder: str, shard: Listed) -> str:
    return storage.join(folder, storage.base_name(shard.url) + ".parquet")


def put_summary(folder: str, known: Mapping[str, Known]) -> None:
    """Write what is known of the shards of a folder, by base name; `folder` is that of the index."""
    import pyarrow as pa

    entries = [known[name] for name in sorted(known)]
    columns = {
        "name": pa.array([e.name for e in entries], pa.string()),
        "size": pa.array([e.size for e in entries], pa.int64()),
        "mark": pa.array([e.mark for e in entries], pa.string()),
        "rows": pa.array([e.rows for e in entries], pa.int64()),
        "digest": pa.array([e.digest for e in entries], pa.string()),
    }
    _put_table(pa.table(columns).replace_schema_metadata({"form": _FORM}), storage.join(folder, _SUMMARY))


def _summary_of(data: bytes) -> dict[str, Known] | None:
    """None for a file of another form, which is then made again."""
    import pyarrow as pa

    try:
        table = _table_of(data)
    except pa.ArrowInvalid:
        return None
    if (table.schema.metadata or {}).get(b"form") != _FORM.encode():
        return None
    columns = (table[name].to_pylist() for name in ("name", "size", "mark", "rows", "digest"))
    return {name: Known(name, *rest) for name, *rest in zip(*columns, strict=True)}


def _put_table(table: Any, url: str) -> None:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    storage.write_atomically(url, buffer.getvalue())


def _table_of(data: bytes) -> Any:
    """The table in a Parquet file, read by the calling thread.

    Arrow's own threads are not needed for files this small, and a process that ends while they start is aborted.
    """
    import pyarrow.parquet as pq

    return pq.ParquetFile(io.BytesIO(data), pre_buffer=False).read(use_threads=False)


def _cache_root() -> str:
    root = os.environ.get("LUMIRAY_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "lumiray"
    )
    return os.path.join(root, "index")


def _absolute(url: str) -> str:
    return url if storage.is_s3(url) else os.path.abspath(storage.local_path(url))
