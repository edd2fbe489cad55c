"""The index of one folder of shards, as files: one Parquet of row offsets per shard, one of counts for all.

Where rows are filtered, the keys of each shard's rows are kept besides (`survivors`).

Kept beside the shards where that can be written, for then every machine and every later run finds it; else in a
cache of this user.  Written whole or not at all, and without a lock: two writers write the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from lumiray import storage
from lumiray.data.index_file import entries_of, put_entries, put_table, table_of
from lumiray.data.listing import Listed, refuse_changed
from lumiray.data.shapes import shapes_in
from lumiray.data.tar import ShardScan, scan_shard
from lumiray.errors import UserError
from lumiray.storage import without_secrets

FOLDER = ".lumiray-index"
_SUMMARY = "summary.parquet"
_FORM = "lumiray-index-1"


class Known(NamedTuple):
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
    """Rows of one shard, all of them or some.

    Args:
        offsets, lengths: in bytes, int64 (n,) each.
        numbers: which rows of the shard these are, ascending, int32 (n,); None for all of them.
        slices: where a cache is used, the bytes that it keeps together (`fetch_rows.slice_bounds`).
    """

    offsets: np.ndarray
    lengths: np.ndarray
    numbers: np.ndarray | None = None
    slices: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        columns = (self.offsets, self.lengths, self.numbers, self.slices)
        return sum(column.nbytes for column in columns if column is not None)

    def only(self, numbers: np.ndarray) -> Rows:
        """Those of all rows that have these numbers."""
        return Rows(self.offsets[numbers], self.lengths[numbers], numbers, self.slices)


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
        with_keys: bool = False,
    ) -> list[Known]:
        """What is known of these shards, after indexing those of which nothing is.

        Args:
            scan_map, rebuild: as `ShardSet.open` says; whether a cache may be made again.
            with_keys: keep the keys of rows too, of the shards that are read anyhow.

        Raises:
            UserError: a shard has changed since it was indexed, and the index is not ours alone to rebuild.
        """
        names = [storage.base_name(shard.url) for shard in shards]
        known, home = self._unchanged(shards, names, rebuild)
        todo = [shard for name, shard in zip(names, shards, strict=True) if name not in known]
        if todo:
            home = self._writable(known, home)
            for entry in scan_map(partial(index_shard, folder=home, with_keys=with_keys), todo):
                known[entry.name] = entry
            put_summary(home, known)
        return [known[name] for name in names]

    def counts(self, shards: Sequence[Listed], rebuild: bool) -> dict[str, int]:
        """Rows of those of these shards that are indexed, by address; raises as `up_to_date`."""
        names = [storage.base_name(shard.url) for shard in shards]
        known, _ = self._unchanged(shards, names, rebuild)
        return {shard.url: known[name].rows for shard, name in zip(shards, names, strict=True) if name in known}

    def _unchanged(
        self, shards: Sequence[Listed], names: Sequence[str], rebuild: bool
    ) -> tuple[dict[str, Known], str | None]:
        """What the summary says of shards, without these of them that have changed, and the folder of the summary."""
        known, home = self._summary()
        changed = [shard for name, shard in zip(names, shards, strict=True) if _is_changed(shard, known.get(name))]
        if changed and not (rebuild and self.in_cache and home == self.apart):
            first = known[storage.base_name(changed[0].url)]
            now = f"{changed[0].size} bytes, {changed[0].mark}"
            raise UserError(
                f"Shard {without_secrets(changed[0].url)} has changed since it was indexed (then {first.size} bytes, "
                f"{first.mark}; now {now}), and {len(changed) - 1} others with it. If that is meant, remove "
                f"{without_secrets(home or self.beside)}, and the index is made again; the run's order will be another."
            )
        for shard in changed:
            del known[storage.base_name(shard.url)]
        return known, home

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
        rows = self.indexed_rows(shard)
        if rows is None:
            scan = _scanned(shard)
            rows = Rows(scan.row_offsets, scan.row_lengths)
            self.keep_rows(shard, rows)
        return rows

    def indexed_rows(self, shard: Listed) -> Rows | None:
        """Row offsets of a shard from the index; None where it is in none that can be reached from here."""
        for folder in self.folders:
            with suppress(storage.NotThere, storage.NoAccess):
                return _read_rows(folder, shard)
        return None

    def keep_rows(self, shard: Listed, rows: Rows) -> None:
        """Put the row offsets of a shard that was scanned where this user's processes find them."""
        with suppress(OSError, UserError):  # a full or read-only disk costs time here, it does not stop a run
            _write_rows(self.apart, shard, rows)

    def keys(self, shard: Listed) -> list[str]:
        """Keys of a shard's rows in its order: from the index, or by scanning it, which is then kept."""
        for folder in self.folders:
            try:
                return _read_keys(folder, shard)
            except (storage.NotThere, storage.NoAccess):
                continue
        keys = _scanned(shard).keys
        for folder in self.folders:
            with suppress(OSError, UserError):  # as above
                _write_keys(folder, shard, keys)
                break
        return list(keys)

    def shapes(self, shard: Listed) -> np.ndarray:
        """Heights and widths of all rows of an indexed shard (`shapes_in`), measured once and then kept."""
        for folder in self.folders:
            with suppress(storage.NotThere, storage.NoAccess):
                return _read_shapes(folder, shard)
        shapes = shapes_in(shard.url, self.rows(shard).offsets)
        refuse_changed(shard)
        for folder in self.folders:
            with suppress(OSError, UserError):  # as above
                _write_shapes(folder, shard, shapes)
                break
        return shapes

    def _summary(self) -> tuple[dict[str, Known], str | None]:
        """What the summary says, and the folder in which it was found."""
        for folder in self.folders:
            try:
                data = storage.read_bytes(storage.join(folder, _SUMMARY))
            except (storage.NotThere, storage.NoAccess):
                continue
            known = entries_of(data, Known, _FORM)
            if known is not None:
                return {one.name: one for one in known}, folder
        return {}, None

    def _writable(self, known: dict[str, Known], home: str | None) -> str:
        """The folder where the index goes on: where it was found, if that can be written, or the first that can."""
        for folder in [home] if home == self.apart else self.folders[:-1]:
            with suppress(OSError, UserError):
                put_summary(folder, known)
                return folder
        return self.apart


def index_shard(shard: Listed, folder: str, with_keys: bool) -> Known:
    """Scan one shard and keep its offsets; runs anywhere, knows nothing of the other shards.

    What an interrupted run has already kept is not scanned again.

    Raises:
        lumiray.data.tar.BadShard: it cannot be read to its end.
        UserError: it is not the shard that was listed.
    """
    try:
        rows = _read_rows(folder, shard)
    except storage.NotThere:
        scan = _scanned(shard)
        rows = Rows(scan.row_offsets, scan.row_lengths)
        _write_rows(folder, shard, rows)
        if with_keys:
            _write_keys(folder, shard, scan.keys)
    return Known(storage.base_name(shard.url), shard.size, shard.mark, len(rows.offsets), _digest(rows))


def _scanned(shard: Listed) -> ShardScan:
    """What is kept of a shard under its mark must be of the shard that had it."""
    scan = scan_shard(shard.url)
    refuse_changed(shard)
    return scan


def _is_changed(shard: Listed, known: Known | None) -> bool:
    return known is not None and (shard.size, shard.mark) != (known.size, known.mark)


def _digest(rows: Rows) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(rows.offsets.astype("<i8").tobytes())
    digest.update(rows.lengths.astype("<i8").tobytes())
    return digest.hexdigest()


def _write_rows(folder: str, shard: Listed, rows: Rows) -> None:
    import pyarrow as pa

    schema = pa.schema([("offset", pa.int64()), ("length", pa.int64())], metadata=_about(shard))
    put_table(pa.table([rows.offsets, rows.lengths], schema=schema), _path(folder, shard))


def _read_rows(folder: str, shard: Listed) -> Rows:
    """Raises NotThere also where the file belongs to another state of the shard."""
    table = _read_table(_path(folder, shard), shard)
    return Rows(table["offset"].to_numpy(), table["length"].to_numpy())


def _write_keys(folder: str, shard: Listed, keys: Sequence[str]) -> None:
    import pyarrow as pa

    names = [key.encode("utf-8", "surrogateescape") for key in keys]  # archives may hold names in any encoding
    schema = pa.schema([("key", pa.binary())], metadata=_about(shard))
    put_table(pa.table([names], schema=schema), _path(folder, shard, ".keys"))


def _read_keys(folder: str, shard: Listed) -> list[str]:
    """Raises NotThere as `_read_rows`."""
    table = _read_table(_path(folder, shard, ".keys"), shard)
    return [key.decode("utf-8", "surrogateescape") for key in table["key"].to_pylist()]


def _write_shapes(folder: str, shard: Listed, shapes: np.ndarray) -> None:
    import pyarrow as pa

    schema = pa.schema([("height", pa.uint16()), ("width", pa.uint16())], metadata=_about(shard))
    put_table(pa.table([shapes[:, 0], shapes[:, 1]], schema=schema), _path(folder, shard, ".shapes"))


def _read_shapes(folder: str, shard: Listed) -> np.ndarray:
    """Raises NotThere as `_read_rows`."""
    table = _read_table(_path(folder, shard, ".shapes"), shard)
    return np.stack([table["height"].to_numpy(), table["width"].to_numpy()], axis=1)


def _about(shard: Listed) -> dict[str, str]:
    return {"form": _FORM, "shard": storage.base_name(shard.url), "size": str(shard.size), "mark": shard.mark}


def _read_table(path: str, shard: Listed) -> Any:
    table = table_of(storage.read_bytes(path))
    about = table.schema.metadata or {}
    for name, value in (("form", _FORM), ("size", str(shard.size)), ("mark", shard.mark)):
        if about.get(name.encode()) != value.encode():
            raise storage.NotThere(f"{path} belongs to another state of the shard")
    return table


def _path(folder: str, shard: Listed, of: str = "") -> str:
    return storage.join(folder, f"{storage.base_name(shard.url)}{of}.parquet")


def put_summary(folder: str, known: Mapping[str, Known]) -> None:
    """Write what is known of the shards of a folder, by base name; `folder` is that of the index."""
    put_entries([known[name] for name in sorted(known)], Known, _FORM, storage.join(folder, _SUMMARY))


def _cache_root() -> str:
    root = os.environ.get("LUMIRAY_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "lumiray"
    )
    return os.path.join(root, "index")


def _absolute(url: str) -> str:
    return url if storage.is_s3(url) else os.path.abspath(storage.local_path(url))
