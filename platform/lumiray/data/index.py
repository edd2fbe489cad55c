"""Where every row of a set of shards lies: the bridge between ordinals of the plan and bytes.

One small Parquet file per shard holds its row offsets, and one per folder sums them up (rows, size, modification
mark), so that opening 40,000 shards reads one file.  They lie in `.lumiray-index/` beside the shards, or in a
cache where that cannot be written.  A shard whose size or mark has changed is refused by name.  With a filter
(`filter`, `survivors`) only the rows that it keeps are numbered.

    shards = ShardSet.open(expand("data/{00000..00099}.tar"))
    shards.num_rows, shards.locate(ordinals), shards.read(ordinals)

A ShardSet is small when pickled: names, counts, no offsets, no bitmaps.  They are read when a shard is first
touched, and the least recently used are forgotten, so memory is bounded however many shards there are.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from lumiray import storage
from lumiray.data.catalog import Catalog, Known, Rows
from lumiray.data.counts import INDEX, Told, refuse_count, told_counts
from lumiray.data.fetch_rows import Shard, Span, fetched, in_any_turn, near, slice_bounds, slices
from lumiray.data.filter import Filter
from lumiray.data.listing import Listed, refuse_changed, still_there
from lumiray.data.slice_cache import SliceCache
from lumiray.data.survivors import Kept, Sieve, Survivors, tabled_shards
from lumiray.data.tar import MAX_ROW_BYTES, read_row
from lumiray.data.whole_shards import bring, num_requests, rows_of
from lumiray.errors import UserError
from lumiray.system import BadRow, Row

_OFFSETS_BYTES = 64 << 20  # of row offsets kept in memory by one process


class ShardSet:
    """Shards in order, their rows numbered through.  Made by `ShardSet.open`.

    Attributes:
        rows_per_shard: int64, shape (shards,); with a filter, of those that survive it.
        stored_per_shard: rows in the archives, in any case.
        survivors: what a filter leaves; None without one.
        told_by: where shards are read whole, what said the rows of each (`counts`), int8 (shards,); else None.
        cache: where rows of shards on S3 are kept on this host; None without one.
        folders, folder_of, names: address of shard i = folders[folder_of[i]] + "/" + names[i].
        sizes: bytes per shard, int64.
    """

    def __init__(
        self,
        listed: Sequence[Listed],
        rows_per_shard: np.ndarray,
        digests: Sequence[str],
        index_folder: str | None,
        survivors: Survivors | None = None,
        cache: SliceCache | None = None,
        told_by: np.ndarray | None = None,
    ) -> None:
        folders = _folders(listed)
        self.folders = tuple(dict.fromkeys(folders))
        numbers = {folder: number for number, folder in enumerate(self.folders)}
        self.folder_of = np.array([numbers[folder] for folder in folders], dtype=np.int32)
        # fixed-width arrays, not lists of objects: a million names take 10 to 20 MB and pickle at once
        self.names = np.array([url.rpartition("/")[2].encode("utf-8") for url, _, _ in listed], dtype=np.bytes_)
        self.marks = np.array([mark.encode() for _, _, mark in listed], dtype=np.bytes_)
        self.sizes = np.array([size for _, size, _ in listed], dtype=np.int64)
        self.stored_per_shard = np.asarray(rows_per_shard, dtype=np.int64)
        self.rows_per_shard = self.stored_per_shard if survivors is None else survivors.rows
        self.survivors = survivors
        self.index_folder, self.cache, self.told_by = index_folder, cache, told_by
        self.digest = self._digest(digests)
        self._offsets: OrderedDict[int, Rows] = OrderedDict()

    @classmethod
    def open(
        cls,
        urls: Sequence[str] | Sequence[Listed],
        index_folder: str | None = None,
        scan_map: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]] = map,
        digest: str | None = None,
        keep: Filter | None = None,
        cache: SliceCache | None = None,
        whole: bool = False,
    ) -> ShardSet:
        """Find the rows of all shards, indexing those that have no index yet.

        Args:
            urls: addresses from `listing.expand`; what `listing.find` gives is not looked up once more.
            index_folder: where the index lies; beside the shards, or in the cache, if not given.
            scan_map: calls a function for each of many shards, as `map`; Ray can do it in parallel, for function,
                arguments and results can be pickled and the order of the results does not matter.
            digest: digest that an earlier run stored; anything else is refused, and nothing is rebuilt.
            keep: which rows are numbered, by the tables beside the shards; all rows if not given.
            cache: keeps rows of shards on S3 on the disk of the host that reads them; local shards need none.
            whole: shards are read whole (`whole_shards`).  Those whose rows something tells (`counts`) are not indexed
                and not opened before their rows are read; a filter needs the keys of all rows, and so the index.

        Raises:
            UserError: no shards, a shard that is missing, unreadable, or changed since it was indexed; a table that
                is missing or that the filter does not fit.
        """
        if not urls:
            raise UserError("There are no shards to open.")
        there = iter(still_there([url for url in urls if isinstance(url, str)]))
        listed = [next(there) if isinstance(url, str) else url for url in urls]
        by_folder: dict[str, list[Listed]] = {}
        for each, folder in zip(listed, _folders(listed), strict=True):
            by_folder.setdefault(folder, []).append(each)
        tabled = {one.url: one for one in (tabled_shards(listed) if keep is not None else ())}
        known: dict[str, Known] = {}
        told: Told = {}
        kept: dict[str, Kept] = {}
        for folder, shards in by_folder.items():
            catalog = Catalog(folder, index_folder)
            if whole and keep is None:
                told |= told_counts(catalog, shards, scan_map, rebuild=digest is None)
            rest = [shard for shard in shards if shard.url not in told]
            if rest:
                found = catalog.up_to_date(rest, scan_map, rebuild=digest is None, with_keys=keep is not None)
                known.update((shard.url, one) for shard, one in zip(rest, found, strict=True))
            if keep is not None:
                left = Sieve(catalog, keep).up_to_date([tabled[shard.url] for shard in shards], scan_map)
                kept.update((shard.url, one) for shard, one in zip(shards, left, strict=True))
        rows = np.array([known[url].rows if url in known else told[url][0] for url, _, _ in listed], dtype=np.int64)
        told_by = np.array([told[url][1] if url in told else INDEX for url, _, _ in listed], np.int8) if whole else None
        # the order of whole shards follows from their counts: the run is the same whatever told them
        digests = ["" if whole else known[url].digest for url, _, _ in listed]
        survivors = None
        if keep is not None:
            survivors = Survivors.of(keep, [kept[each.url] for each in listed])
            digests = [f"{one} {kept[each.url].digest}" for one, each in zip(digests, listed, strict=True)]
        opened = cls(listed, rows, digests, index_folder, survivors, cache, told_by)
        if digest is not None and opened.digest != digest:
            raise UserError(
                f"The shards are not those that the run began with: their digest is {opened.digest}, not {digest}. "
                "Give the same --shards, or start a new run with another --output."
            )
        return opened

    def __len__(self) -> int:
        """Number of shards."""
        return len(self.names)

    @cached_property
    def starts(self) -> np.ndarray:
        """Ordinal of each shard's first row, and num_rows at the end; int64, shape (shards + 1,)."""
        starts: np.ndarray = np.concatenate([[0], np.cumsum(self.rows_per_shard)])
        return starts

    @property
    def num_rows(self) -> int:
        """Rows of all shards."""
        return int(self.starts[-1])

    @property
    def counts(self) -> np.ndarray:
        """Rows of each shard, as the plan of a run over whole shards is made of them; int64, shape (shards,)."""
        return self.rows_per_shard

    @property
    def num_stored(self) -> int:
        """Rows in the archives of all shards, those that a filter leaves out too."""
        return int(self.stored_per_shard.sum())

    def url_of(self, shard: int) -> str:
        """Address of a shard."""
        return storage.join(self.folders[self.folder_of[shard]], self.names[shard].decode("utf-8"))

    def name_of(self, shard: int) -> str:
        """Path of a shard below the folder that all shards have in common: the same after the data moved."""
        name: bytes = self.names[shard]
        folder: str = self._relative[self.folder_of[shard]]
        return folder + name.decode("utf-8")

    def locate(self, ordinals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shard numbers and rows within the shards, int64, shape of `ordinals`.

        With a filter too a row within a shard counts all rows of the archive: that is where a message says it is,
        and another filter leaves its random choices as they are.

        Raises:
            ValueError: an ordinal is not in [0, num_rows).
        """
        shards, rows = self._places(ordinals)
        for shard in np.unique(shards).tolist() if self.survivors is not None else ():
            numbers = self._rows_of(shard).numbers
            if numbers is not None:
                here = shards == shard
                rows[here] = numbers[rows[here]]
        return shards, rows

    def _places(self, ordinals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `locate`, in closed form: rows within the shards count the numbered ones alone."""
        ordinals = np.asarray(ordinals, dtype=np.int64)
        if ordinals.size and (int(ordinals.min()) < 0 or int(ordinals.max()) >= self.num_rows):
            raise ValueError(f"row ordinals must lie in [0, {self.num_rows})")
        flat = ordinals.ravel()
        order = np.argsort(flat)  # looked up in order: the table of a million shards is larger than the cache
        shards = np.empty_like(flat)
        shards[order] = np.searchsorted(self.starts, flat[order], side="right") - 1
        shards = shards.reshape(ordinals.shape)
        return shards, ordinals - self.starts[shards]

    def read(self, ordinals: np.ndarray, anew: bool = False) -> list[Row | BadRow]:
        """Rows as they are stored, in the order asked; neighbours are fetched together.

        A row that is there but cannot be read is a `BadRow` in its place, never an exception: what becomes of
        bad rows is the caller's policy.

        Args:
            anew: from the store, whatever a cache has.

        Raises:
            UserError: a shard is gone, has changed, or its store does not answer.
        """
        ordinals = np.asarray(ordinals, dtype=np.int64)
        unique, places = np.unique(ordinals, return_inverse=True)
        found: dict[int, Row | BadRow] = {}
        spans = self._all_spans(unique)
        if self.told_by is not None and self.cache is not None and not anew:
            bring(spans, self.cache)
        for span, data, is_new in fetched(spans, self.cache, anew):
            rows = [_parsed(data, start - span.start, length, ordinal) for ordinal, start, length in span.rows]
            found |= {ordinal: row for (ordinal, _, _), row in zip(span.rows, rows, strict=True)}
            if any(isinstance(row, BadRow) for row in rows):
                refuse_changed(span.shard.listed)  # its rows are all in doubt then
            elif is_new and self.cache is not None and span.name is not None:  # only what was seen to be right is kept
                self.cache.keep(span.name, data)
        return [found[int(unique[place])] for place in places.ravel()]

    def num_requests(self, ordinals: np.ndarray) -> float:
        """Range reads that `read` makes for these rows, from an empty cache where there is one.

        Of a shard that is read whole it is the share of its requests: every row of it comes from them.
        """
        unique = np.unique(np.asarray(ordinals, dtype=np.int64))
        if self.told_by is None:
            return len(self._all_spans(unique))
        shards, rows = np.unique(self._places(unique)[0], return_counts=True)
        asked = np.array([num_requests(self._shard(shard)) for shard in shards.tolist()])
        return float((asked * rows / self.rows_per_shard[shards]).sum())

    def row_sizes(self, shard: int) -> np.ndarray:
        """Bytes of each numbered row of a shard as stored, headers included; int64."""
        return self._rows_of(shard).lengths

    def keys(self, shard: int) -> list[str]:
        """Keys of all rows that a shard stores, in its order; untrusted.  Read once, then kept in the index."""
        return self._catalog(shard).keys(self._listed(shard))

    def shapes(self, scan_map: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]] = map) -> np.ndarray:
        """Heights and widths of all numbered rows (`shapes.shapes_in`), uint16 (num_rows, 2).

        Args:
            scan_map: as `open` has it; shards that were never measured are read once.
        """
        listed = [self._listed(number) for number in range(len(self.names))]
        measured = scan_map(partial(_shapes_of, index_folder=self.index_folder), listed)
        found = [np.empty((0, 2), np.uint16)]
        for number, shapes in enumerate(measured):
            numbers = self._rows_of(number).numbers if self.survivors is not None else None
            found.append(shapes if numbers is None else shapes[numbers])
        return np.concatenate(found)

    def _rows_of(self, shard: int) -> Rows:
        """Offsets of a shard, from memory, from the index, or by scanning where the index cannot be reached."""
        if shard in self._offsets:
            self._offsets.move_to_end(shard)
            return self._offsets[shard]
        url, listed, catalog = self.url_of(shard), self._listed(shard), self._catalog(shard)
        whole = self.told_by is not None
        rows = rows_of(self._shard(shard), catalog, self.cache) if whole else catalog.rows(listed)
        stored = int(self.stored_per_shard[shard])
        if len(rows.offsets) != stored:
            teller = INDEX if self.told_by is None else int(self.told_by[shard])
            raise refuse_count(url, teller, stored, len(rows.offsets))
        if self.cache is not None:
            rows = replace(rows, slices=slice_bounds(rows))
        if self.survivors is not None and self.rows_per_shard[shard] < stored:
            sieve = Sieve(catalog, self.survivors.keep)
            rows = rows.only(sieve.numbers(listed, int(self.survivors.digests[shard])))
        self._offsets[shard] = rows
        while len(self._offsets) > 1 and sum(r.nbytes for r in self._offsets.values()) > _OFFSETS_BYTES:
            self._offsets.popitem(last=False)
        return rows

    def _listed(self, shard: int) -> Listed:
        return Listed(self.url_of(shard), int(self.sizes[shard]), self.marks[shard].decode())

    def _catalog(self, shard: int) -> Catalog:
        return Catalog(self.folders[self.folder_of[shard]], self.index_folder)

    def _all_spans(self, unique: np.ndarray) -> list[Span]:
        """Ranges to read for rows in ascending order."""
        shards, rows = self._places(unique)
        if self.told_by is not None:
            for number in in_any_turn(np.unique(shards).tolist()):
                self._rows_of(number)
        spans: list[Span] = []
        cuts = np.flatnonzero(np.diff(shards)) + 1
        for part in np.split(np.arange(len(unique)), cuts):
            if len(part):
                shard = self._shard(int(shards[part[0]]))
                join = near if self.cache is None or not storage.is_s3(shard.url) else slices
                spans.extend(join(shard, self._rows_of(shard.number), rows[part], unique[part]))
        return spans

    def _shard(self, number: int) -> Shard:
        return Shard(number, self.url_of(number), int(self.sizes[number]), self.marks[number].decode())

    @cached_property
    def _relative(self) -> tuple[str, ...]:
        parts = [folder.split("/") for folder in self.folders]
        common = 0
        while all(len(p) > common for p in parts) and len({p[common] for p in parts}) == 1:
            common += 1
        return tuple("".join(f"{piece}/" for piece in p[common:]) for p in parts)

    def _digest(self, digests: Sequence[str]) -> str:
        """Of names, sizes, counts and offsets, not of marks or folders: the same for a faithful copy."""
        folders = [self._relative[number] for number in self.folder_of.tolist()]
        paths = [folder + name.decode("utf-8") for folder, name in zip(folders, self.names.tolist(), strict=True)]
        numbers = [map(str, column.tolist()) for column in (self.sizes, self.rows_per_shard)]
        lines = map("\x1f".join, zip(paths, *numbers, digests, strict=True))
        text = "".join(f"{line}\n" for line in lines)
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("starts", None)
        state["_offsets"] = OrderedDict()
        return state


def _folders(listed: Sequence[Listed]) -> list[str]:
    """The folder of each shard: few of them for very many shards."""
    heads = [url[: url.rfind("/") + 1] for url, _, _ in listed]
    folders = {head: storage.parent(head + "name") for head in set(heads)}
    return [folders[head] for head in heads]


def _shapes_of(shard: Listed, index_folder: str | None) -> np.ndarray:
    return Catalog(storage.parent(shard.url), index_folder).shapes(shard)


def _parsed(data: bytes, start: int, length: int, ordinal: int) -> Row | BadRow:
    if length > MAX_ROW_BYTES:
        return BadRow(f"the row is {length} bytes long, more than {MAX_ROW_BYTES} are not read")
    try:
        return read_row(data[start : start + length], ordinal)
    except BadRow as error:
        return error
