"""Which rows of shards a filter keeps: found once per filter, then read from the index.

img2dataset writes `00012.parquet` beside `00012.tar`, a row for every address that it tried; those that it got are
in the archive too, under the same key.  A filter is a condition on the columns of that table, and the two are joined
by key alone: the table may have more rows, in any order.  A row of the archive that no row of the table is about is
left out, and counted.

What is found lies in a folder of the index for each filter, `filter-HASH/`: one bitmap per shard and one summary,
each good for one state of shard and table.  A table that has changed is looked through again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from lumiray import storage
from lumiray.data.catalog import Catalog
from lumiray.data.filter import Filter
from lumiray.data.index_file import entries_of, put_entries, put_table, table_of
from lumiray.data.listing import Listed, look_up
from lumiray.errors import UserError, near
from lumiray.storage import without_secrets

KEY = "key"  # column of a table that holds the keys of rows
_SUMMARY = "summary.parquet"
_FORM = "lumiray-survivors-1"


@dataclass(frozen=True)
class Survivors:
    """What a filter leaves of many shards; the bitmaps themselves stay in the index.

    Args:
        keep: the filter.
        rows: how many rows of each shard survive, int64 (shards,).
        digests: by which the bitmap of each shard is known again, uint64 (shards,).
        unlisted: rows that no table is about, of all shards.
    """

    keep: Filter
    rows: np.ndarray
    digests: np.ndarray
    unlisted: int

    @classmethod
    def of(cls, keep: Filter, kept: Sequence[Kept]) -> Survivors:
        """Of shards in the order of their numbers."""
        rows = np.array([one.rows for one in kept], dtype=np.int64)
        digests = np.array([int(one.digest, 16) for one in kept], dtype=np.uint64)
        return cls(keep, rows, digests, sum(one.unlisted for one in kept))


@dataclass(frozen=True)
class TabledShard:
    """A shard, and the table that lies beside it."""

    shard: Listed
    table: Listed

    @property
    def url(self) -> str:
        """Address of the shard."""
        return self.shard.url

    @property
    def size(self) -> int:
        """Bytes that there may be to read."""
        return self.shard.size + self.table.size


@dataclass(frozen=True)
class Kept:
    """What a filter was found to keep of one shard.

    Args:
        name: base name of the shard.
        size, mark, table_size, table_mark: of shard and table as they were, as in `listing.Listed`.
        stored: rows of the shard.
        rows: those that survive.
        unlisted: those that the table has no row for.
        digest: of the bitmap, 16 hexadecimal digits.
    """

    name: str
    size: int
    mark: str
    table_size: int
    table_mark: str
    stored: int
    rows: int
    unlisted: int
    digest: str

    def is_of(self, shard: TabledShard) -> bool:
        """Whether shard and table are still the same."""
        now = (shard.shard.size, shard.shard.mark, shard.table.size, shard.table.mark)
        return now == (self.size, self.mark, self.table_size, self.table_mark)


class Sieve:
    """A filter and the shards of one folder.

    Args:
        catalog: index of that folder.
    """

    def __init__(self, catalog: Catalog, keep: Filter) -> None:
        self.catalog, self.keep = catalog, keep
        self.folders = [storage.join(folder, f"filter-{keep.digest}") for folder in catalog.folders]

    def up_to_date(
        self,
        shards: Sequence[TabledShard],
        scan_map: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]],
    ) -> list[Kept]:
        """What survives of these shards, after looking through those of which that is not known as they are now.

        Args:
            scan_map: as in `ShardSet.open`.

        Raises:
            UserError: a table lacks a column of the filter, or has no keys, or is not of this shard.
        """
        known, home = self._summary()
        names = [storage.base_name(shard.url) for shard in shards]
        todo = [s for name, s in zip(names, shards, strict=True) if name not in known or not known[name].is_of(s)]
        if todo:
            home = self._writable(known, home)
            for one in scan_map(partial(self.sift, folder=home), todo):
                known[one.name] = one
            _put_summary(home, known)
        return [known[name] for name in names]

    def sift(self, shard: TabledShard, folder: str) -> Kept:
        """Find what survives of one shard and keep it; runs anywhere, knows nothing of the other shards.

        What an interrupted run has already kept is not looked for again.
        """
        try:
            _, found = _read_bitmap(folder, storage.base_name(shard.url))
            if found.is_of(shard):
                return found
        except storage.NotThere:
            pass
        bitmap, unlisted = self._bitmap(shard)
        found = _kept(shard, bitmap, unlisted)
        _write_bitmap(folder, bitmap, found)
        return found

    def numbers(self, shard: Listed, digest: int) -> np.ndarray:
        """Which rows of a shard survive, ascending, int32: from the index, or found anew where none can be reached.

        Args:
            digest: of the bitmap that the run began with.

        Raises:
            UserError: it is not in the index, and the table says something else now.
        """
        name = storage.base_name(shard.url)
        for folder in self.folders:
            try:
                bitmap, _ = _read_bitmap(folder, name)
            except (storage.NotThere, storage.NoAccess):
                continue
            if int(_digest(bitmap), 16) == digest:
                return _numbers(bitmap)
        tabled = tabled_shards([shard])[0]
        bitmap, unlisted = self._bitmap(tabled)
        if int(_digest(bitmap), 16) != digest:
            raise UserError(
                f"{without_secrets(tabled.table.url)} says now that --data.filter keeps other rows of its shard than "
                "when the run began: it was changed. Put the old file back, or start anew."
            )
        with suppress(OSError, UserError):  # a full or read-only disk costs time here, it does not stop a run
            _write_bitmap(self.folders[-1], bitmap, _kept(tabled, bitmap, unlisted))
        return _numbers(bitmap)

    def _bitmap(self, shard: TabledShard) -> tuple[np.ndarray, int]:
        """Whether each row of a shard survives, bool (n,), and how many its table has no row for."""
        listed, surviving = _keys_in(shard.table, self.keep)
        keys = self.catalog.keys(shard.shard)
        unlisted = sum(key not in listed for key in keys)
        if keys and unlisted == len(keys):
            raise UserError(
                f"{without_secrets(shard.table.url)} has no row for any of the {len(keys)} keys of its shard, such as "
                f"{keys[0]!r}: it belongs to another one. Put the table of this shard beside it, or leave out "
                "--data.filter."
            )
        return np.array([key in surviving for key in keys], dtype=bool), unlisted

    def _summary(self) -> tuple[dict[str, Kept], str | None]:
        """What the summary says, and the folder in which it was found."""
        for folder in self.folders:
            try:
                data = storage.read_bytes(storage.join(folder, _SUMMARY))
            except (storage.NotThere, storage.NoAccess):
                continue
            known = entries_of(data, Kept, _FORM)
            if known is not None:
                return {one.name: one for one in known}, folder
        return {}, None

    def _writable(self, known: dict[str, Kept], home: str | None) -> str:
        """Where the bitmaps go: as the rest of the index (`Catalog`), beside the shards where that can be written."""
        for folder in [home] if home == self.folders[-1] else self.folders[:-1]:
            with suppress(OSError, UserError):
                _put_summary(folder, known)
                return folder
        return self.folders[-1]


def tabled_shards(shards: Sequence[Listed]) -> list[TabledShard]:
    """Each shard with the table beside it.

    Raises:
        UserError: some have none; names the first.
    """
    tables = [f"{shard.url.removesuffix('.tar')}.parquet" for shard in shards]
    there = look_up(tables)
    missing = [table for table in tables if table not in there]
    if missing:
        others = f", and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise UserError(
            f"There is no {without_secrets(missing[0])}{others}: --data.filter reads columns of the Parquet files that "
            "img2dataset writes beside its shards, one with the name of each shard. Fetch them, or leave the filter "
            "out."
        )
    return [TabledShard(shard, there[table]) for shard, table in zip(shards, tables, strict=True)]


def check_table(shard: Listed, keep: Filter) -> None:
    """Refuse a filter that does not fit the table of a shard.

    Raises:
        UserError: there is no table, or it lacks a column, or a column holds something else than the filter takes.
    """
    table = tabled_shards([shard])[0].table
    keep.expression(_schema(storage.read_bytes(table.url), table), without_secrets(table.url))


def _keys_in(table: Listed, keep: Filter) -> tuple[set[str], set[str]]:
    """Keys of all rows of a table, and of those that a filter keeps."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = without_secrets(table.url)
    data = storage.read_bytes(table.url)
    schema = _schema(data, table)
    condition = keep.expression(schema, name)
    try:
        # Arrow skips row groups by their statistics, and reads of the others these columns alone
        every, some = (
            pq.read_table(pa.BufferReader(data), columns=[KEY], filters=rows, use_threads=False, pre_buffer=False)
            for rows in (None, condition)
        )
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"--data.filter {keep.text!r} cannot be applied to {name}: {reason}.") from None
    keys = set(every[KEY].to_pylist())
    if len(keys) < every.num_rows:
        raise UserError(
            f"{name} has {every.num_rows} rows and {len(keys)} different keys: with several rows for one key it is not "
            "known which to believe. Leave one of them."
        )
    return keys, set(some[KEY].to_pylist())


def _schema(data: bytes, table: Listed) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = without_secrets(table.url)
    try:
        schema = pq.read_schema(pa.BufferReader(data))
    except pa.ArrowException:
        raise UserError(f"{name} is no Parquet file: fetch or write it again, or leave out --data.filter.") from None
    kind = schema.field(KEY).type if KEY in schema.names else None
    if kind is None or not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        known = near(KEY, schema.names) if kind is None else f" It is {kind}."
        raise UserError(
            f"{name} has no column {KEY!r} of texts, by which its rows are found in the shard.{known} img2dataset "
            "writes it."
        )
    return schema


def _kept(shard: TabledShard, bitmap: np.ndarray, unlisted: int) -> Kept:
    name, counts = storage.base_name(shard.url), (len(bitmap), int(bitmap.sum()), unlisted)
    state = (shard.shard.size, shard.shard.mark, shard.table.size, shard.table.mark)
    return Kept(name, *state, *counts, _digest(bitmap))


def _numbers(bitmap: np.ndarray) -> np.ndarray:
    return np.flatnonzero(bitmap).astype(np.int32)


def _digest(bitmap: np.ndarray) -> str:
    return hashlib.blake2b(b"%d " % len(bitmap) + np.packbits(bitmap).tobytes(), digest_size=8).hexdigest()


def _put_summary(folder: str, known: dict[str, Kept]) -> None:
    put_entries([known[name] for name in sorted(known)], Kept, _FORM, storage.join(folder, _SUMMARY))


def _write_bitmap(folder: str, bitmap: np.ndarray, kept: Kept) -> None:
    import pyarrow as pa

    schema = pa.schema([("survives", pa.bool_())], metadata={"form": _FORM, "kept": json.dumps(asdict(kept))})
    put_table(pa.table([bitmap], schema=schema), _path(folder, kept.name))


def _read_bitmap(folder: str, name: str) -> tuple[np.ndarray, Kept]:
    """Raises NotThere also for a file of another form."""
    path = _path(folder, name)
    table = table_of(storage.read_bytes(path))
    about = table.schema.metadata or {}
    if about.get(b"form") != _FORM.encode():
        raise storage.NotThere(f"{path} is of another form")
    return table["survives"].to_numpy(), Kept(**json.loads(about[b"kept"]))


def _path(folder: str, name: str) -> str:
    return storage.join(folder, f"{name}.parquet")
