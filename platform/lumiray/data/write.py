"""Writing shards: the same input gives the same bytes, and a set is there whole or marked as unfinished.

Pictures are stored as they are, never compressed again.  Beside the shards lie `sizes.json` (rows per shard, in
open_clip's form), the index of row offsets, and, written last, `manifest.json` with counts, sizes and checksums.

    make_shards("photos.csv", "shards/")             what `lumiray shards make` runs
    write_shards(rows, "shards/")                    (key, parts) from anywhere else
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from lumiray import storage
from lumiray.data.catalog import Catalog
from lumiray.data.cut import cut
from lumiray.data.header import BLOCK, padded
from lumiray.data.manifest import Manifest, WrittenShard, read_manifest, write_manifest
from lumiray.data.shard_file import ShardFile, Written, staged
from lumiray.data.table import Listed
from lumiray.data.unfinished import claim, refuse_taken, release, write_planned
from lumiray.errors import RunFailure, UserError
from lumiray.storage import without_secrets

__all__ = ["Manifest", "WrittenShard", "make_shards", "read_manifest", "write_shards"]


def make_shards(
    source: str | Iterable[Listed],
    output: str,
    *,
    rows_per_shard: int = 10000,
    max_bytes: int = 1 << 30,
    skip_missing: bool = False,
    captions: bool = True,
    shard_map: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]] = map,
) -> Manifest:
    """Turn a table of pictures and captions, or a folder of them, into shards.

    An interrupted call goes on when it is made again: what is finished is kept (see `unfinished`).

    Args:
        source: .csv, .tsv, .parquet, .jsonl (`table.table_rows`), or a folder of pictures with texts or of pairs
            (`folder.folder_rows`); or rows as another reader lists them (`annotations.annotated_rows`).
        output: folder, local or s3://, without shards of another making.
        rows_per_shard, max_bytes: a shard is closed at whichever comes first.
        skip_missing: leave out rows without picture, partner or caption and count them; else they are an error, and
            nothing is written.
        captions: a row of one picture needs one; False makes rows of pictures alone, where there are no texts.
        shard_map: calls a function for each of many shards, as `map`; a pool or Ray can do it in parallel, for
            function, arguments and results can be pickled and the order of the results does not matter.  Every
            process must reach source and output.

    Raises:
        UserError: as said above; a picture or caption is missing (which row), or the output is taken.
        RunFailure: a picture has gone or changed meanwhile (which row), or a place cannot be reached.
    """
    _check_sizes(rows_per_shard, max_bytes)
    place = storage.absolute(output)  # the processes that write may work in other folders
    refuse_taken(place)
    with tempfile.TemporaryFile() as plans:  # together they may be larger than the memory
        wanted: dict[str, str] = {}
        skipped = 0
        rows = storage.absolute(source) if isinstance(source, str) else source
        for plan in cut(rows, rows_per_shard, max_bytes, skip_missing, captions):
            pickle.dump(plan, plans)
            wanted[plan.name] = plan.digest
            skipped += plan.skipped
        if not wanted:
            raise _no_rows(output)
        kept = claim(place, wanted)
        plans.seek(0)
        every = (pickle.load(plans) for _ in wanted)
        try:
            made = shard_map(partial(write_planned, output=place), (plan for plan in every if plan.name not in kept))
            finished = kept | {one.shard.name: one for one in made}
        except UserError as error:
            raise RunFailure(f"{error} Shards that are finished stay: the same command goes on from there.") from None
    return conclude(output, [finished[name] for name in wanted], skipped)


def write_shards(
    rows: Iterable[tuple[str, Mapping[str, bytes]]],
    output: str,
    *,
    rows_per_shard: int = 10000,
    max_bytes: int = 1 << 30,
) -> Manifest:
    """Write (key, parts) rows as shards `00000.tar`, `00001.tar`, ...

    Args:
        rows: key, and part name -> bytes, as `Row` has them.

    Raises:
        UserError: sizes below 1, no rows, an output that holds other shards.
        ValueError: a key or part name that would not be read back as it is.
    """
    _check_sizes(rows_per_shard, max_bytes)
    claim(output, {})
    finished: list[Written] = []
    waiting = _Lookahead(rows)
    try:
        while waiting.more():
            name = f"{len(finished):05d}.tar"
            with staged(storage.join(output, name)) as file:
                shard = ShardFile(file)
                while waiting.more() and shard.has_room(waiting.size(), rows_per_shard, max_bytes):
                    shard.add(*waiting.take())
                finished.append(shard.close(name))
        if not finished:
            raise _no_rows(output)
    except BaseException:
        for done in finished:
            storage.remove_tree(storage.join(output, done.shard.name))
        release(output)
        raise
    return conclude(output, finished, skipped=0)


def conclude(output: str, finished: Sequence[Written], skipped: int) -> Manifest:
    """Write what lies beside shards that `claim` was called for, and call the set whole.

    Args:
        skipped: rows of the source that were left out.
    """
    Catalog(output, None).keep([(storage.join(output, one.shard.name), one.rows) for one in finished])
    manifest = Manifest(output, tuple(one.shard for one in finished), skipped)
    write_manifest(manifest)
    release(output)
    return manifest


def _check_sizes(rows_per_shard: int, max_bytes: int) -> None:
    if rows_per_shard < 1 or max_bytes < 1:
        raise UserError("Shards need at least one row and one byte: check --rows-per-shard and --max-bytes.")


def _no_rows(output: str) -> UserError:
    return UserError(f"There are no rows to write to {without_secrets(output)}.")


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
