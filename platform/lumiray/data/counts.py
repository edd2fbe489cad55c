"""How many rows shards have, from what lies beside them: reading whole shards needs no more to begin.

Believed, in this order: our index, our `manifest.json`, open_clip's `sizes.json`, and what img2dataset leaves beside
every shard, `00012_stats.json` ("successes") or `00012.parquet` (rows whose status is "success").  Shards of which
none of these says a count are left to the pass that makes the index.  A count is a promise: the process that first
reads the shard counts its rows, and stops the run by name where they are others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from lumiray import storage
from lumiray.data.catalog import Catalog
from lumiray.data.listing import Listed, look_up
from lumiray.data.manifest import MANIFEST, SIZES, read_manifest
from lumiray.errors import UserError
from lumiray.storage import without_secrets

INDEX, OWN, LISTED, STATS, TABLE = range(5)
_SUFFIXES = {STATS: "_stats.json", TABLE: ".parquet"}  # in place of .tar
_EMPTY_BYTES = 10_240  # of an archive without members, as tar pads it
_TOGETHER = 1000  # small files that are fetched at once

Told = dict[str, tuple[int, int]]
"""Address of a shard -> its rows, and which of `INDEX`, `OWN`, `LISTED`, `STATS`, `TABLE` says so."""


def told_counts(
    catalog: Catalog,
    shards: Sequence[Listed],
    scan_map: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]],
    rebuild: bool,
) -> Told:
    """Rows of those of the shards of one folder of which something tells them; no shard is opened.

    Args:
        catalog: index of that folder.
        scan_map, rebuild: as `Catalog.up_to_date` has them; Parquet files may be many and large.

    Raises:
        UserError: a file is not what its name promises, or says another size of a shard than it has; a shard has
            changed since it was indexed.
    """
    told: Told = {url: (rows, INDEX) for url, rows in catalog.counts(shards, rebuild).items()}
    for teller, tell in ((OWN, _of_manifest), (LISTED, _of_sizes), (STATS, _of_stats), (TABLE, _of_tables)):
        waiting = [shard for shard in shards if shard.url not in told]
        if not waiting:
            break
        for shard, rows in tell(waiting, scan_map):
            if rows or shard.size <= _EMPTY_BYTES:  # no plan would ever come to see that these are some after all
                told[shard.url] = (rows, teller)
    return told


def refuse_count(url: str, teller: int, told: int, found: int) -> UserError:
    """The error for a shard that does not have the rows that it was said to have."""
    shown = without_secrets(url)
    if teller == INDEX:
        return UserError(
            f"Shard {shown} has {found} rows now and had {told} when the run began: it was replaced. Start again with "
            "the shards as they are."
        )
    beside = {OWN: MANIFEST, LISTED: SIZES}.get(teller) or storage.base_name(_beside(url, teller))
    return UserError(
        f"Shard {shown} has {found} rows, and {beside} beside it says {told}. Correct {beside}, or fetch the shard "
        f"again; or have the rows counted with `lumiray shards info`, which goes before {beside} from then on. The "
        "order of rows follows from the counts: begin the run anew."
    )


_Found = Iterator[tuple[Listed, int]]


def _of_manifest(shards: Sequence[Listed], scan_map: Any) -> _Found:
    folder = storage.parent(shards[0].url)
    manifest = read_manifest(folder)
    written = {one.name: one for one in manifest.shards} if manifest is not None else {}
    for shard in shards:
        one = written.get(storage.base_name(shard.url))
        if one is None:
            continue
        if one.bytes != shard.size:
            raise UserError(
                f"Shard {without_secrets(shard.url)} has {shard.size} bytes, and {MANIFEST} beside it says "
                f"{one.bytes}: it was cut in a copy, or replaced. Fetch it again, or remove {MANIFEST} if the shard is "
                "as it should be."
            )
        yield shard, _count(one.rows, storage.join(folder, MANIFEST))


def _of_sizes(shards: Sequence[Listed], scan_map: Any) -> _Found:
    url = storage.join(storage.parent(shards[0].url), SIZES)
    try:
        sizes = _json(storage.read_bytes(url), url)
    except storage.NotThere:
        return
    for shard in shards:
        name = storage.base_name(shard.url)
        if name in sizes:
            yield shard, _count(sizes[name], url)


def _of_stats(shards: Sequence[Listed], scan_map: Any) -> _Found:
    found = _with_files(shards, STATS)
    for start in range(0, len(found), _TOGETHER):
        part = found[start : start + _TOGETHER]
        for (shard, file), data in zip(part, _contents([file for _, file in part]), strict=True):
            stats = _json(data, file.url)
            if "successes" in stats:
                yield shard, _count(stats["successes"], file.url)


def _of_tables(shards: Sequence[Listed], scan_map: Any) -> _Found:
    found = _with_files(shards, TABLE)
    counted = dict(scan_map(_successes, [file for _, file in found]))
    for shard, file in found:
        if (rows := counted[file.url]) is not None:
            yield shard, rows


def _successes(table: Listed) -> tuple[str, int | None]:
    """Rows that img2dataset got, by the address of its table; None for a table of another making."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(storage.read_bytes(table.url)), pre_buffer=False)
        if "status" not in file.schema_arrow.names:
            return table.url, None
        status = file.read(columns=["status"], use_threads=False)["status"]
        return table.url, pc.sum(pc.equal(status.cast(pa.string()), "success"), min_count=0).as_py()
    except pa.ArrowException:
        raise UserError(
            f"{without_secrets(table.url)} is no Parquet file as img2dataset writes it: fetch it again, or remove it "
            "and the rows of its shard are counted."
        ) from None


def _beside(url: str, teller: int) -> str:
    return url.removesuffix(".tar") + _SUFFIXES[teller]


def _with_files(shards: Sequence[Listed], teller: int) -> list[tuple[Listed, Listed]]:
    """Those shards that have such a file beside them, each with it."""
    names = [_beside(shard.url, teller) for shard in shards]
    there = look_up(names)
    return [(shard, there[name]) for shard, name in zip(shards, names, strict=True) if name in there]


def _contents(files: Sequence[Listed]) -> list[bytes]:
    """Small files of one folder; those on S3 together."""
    if files and storage.is_s3(files[0].url):
        return storage.s3_ranges([(file.url, 0, file.size) for file in files])
    return [storage.read_bytes(file.url) for file in files]


def _json(data: bytes, url: str) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{without_secrets(url)} is damaged: write it again, or remove it and the rows are counted.")
    return found


def _count(value: Any, url: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << 40:
        raise UserError(
            f"{without_secrets(url)} says {value!r} where the number of rows of a shard should be: correct it, or "
            "remove it and the rows are counted."
        )
    return value
