"""A set of shards on its way: whose folder it is, and which shards are finished, so that nothing is written twice.

While a set is being written, a folder `.lumiray-unfinished` lies in it.  Whoever has written a shard from its plan
leaves a record there: the plan's digest, size, checksum and row lengths.  A shard counts as finished when its record
has the digest of the plan that is wanted now and the file is still what the record says.  So the same command goes on
where it was killed; a shard one of whose pictures has changed is written again; another source, or other sizes,
begin anew, for none of their digests is found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict

import numpy as np

from lumiray import storage
from lumiray.data.cut import Picture, PlannedRow, ShardPlan, as_bytes
from lumiray.data.manifest import MANIFEST, SIZES, WrittenShard
from lumiray.data.remote import map_requests
from lumiray.data.shard_file import ShardFile, Written, staged
from lumiray.errors import UserError
from lumiray.storage import Entry, without_secrets

MARKER = ".lumiray-unfinished"
_READ_AHEAD = 32 << 20  # bytes of pictures


def refuse_taken(output: str) -> None:
    """Raise `UserError` where a folder holds shards that nobody is writing."""
    names = storage.list_names(output)
    shards = [name for name in names if name.endswith(".tar")]
    if MARKER not in names and (shards or MANIFEST in names):
        raise UserError(
            f"{without_secrets(output)} already holds shards ({len(shards)} .tar files): give another folder, or "
            "remove them."
        )


def claim(output: str, wanted: Mapping[str, str]) -> dict[str, Written]:
    """Take a folder for these shards: those of them that are finished already, by name.

    What else an interrupted writer left there is removed.

    Args:
        wanted: base name -> digest of its plan; empty if nothing is to be kept.

    Raises:
        UserError: the folder holds shards that nobody is writing.
    """
    refuse_taken(output)
    note = b"Shards are being written here. The same command goes on where it was interrupted.\n"
    storage.write_atomically(storage.join(output, MARKER, "about.txt"), note)
    entries = storage.list_entries(output)
    kept = _finished_of(output, entries, wanted)
    for name in [each.name for each in entries if each.name not in kept]:
        if name.endswith(".tar") or name in (MANIFEST, SIZES) or _was_cut_off(name):
            storage.remove_tree(storage.join(output, name))
    return kept


def finished(output: str, wanted: Mapping[str, str]) -> dict[str, Written]:
    """Those of these shards that are finished, by name; `wanted` as in `claim`."""
    return _finished_of(output, storage.list_entries(output), wanted)


def release(output: str) -> None:
    """Take the mark away: the set is whole, or nothing of it is there."""
    storage.remove_tree(storage.join(output, MARKER))


def write_planned(plan: ShardPlan, output: str) -> Written:
    """Write one shard and leave its record; runs anywhere, knows nothing of the other shards.

    Raises:
        UserError: a picture is gone or has changed since the plan was made (which row), or the disk is full.
    """
    url = storage.join(output, plan.name)
    with staged(url) as file:
        shard = ShardFile(file)
        for number, parts in enumerate(_parts_of(plan.rows()), start=plan.first):
            shard.add(f"{number:09d}", parts)
        written = shard.close(plan.name)
    leave_record(output, written, plan.digest)
    return written


def leave_record(output: str, written: Written, digest: str) -> None:
    """Say that a shard is finished: `claim` and `finished` find it by its digest, as long as its file stays."""
    name = written.shard.name
    mark = storage.entry(storage.join(output, name)).mark
    record = {"digest": digest, "mark": mark, "shard": asdict(written.shard), "counts": dict(written.counts)}
    data = json.dumps(record | {"lengths": written.lengths.tolist()}).encode()
    storage.write_atomically(_record(output, name), data)


def _record(output: str, name: str) -> str:
    return storage.join(output, MARKER, f"{name}.json")


def _finished_of(output: str, entries: Iterable[Entry], wanted: Mapping[str, str]) -> dict[str, Written]:
    named = [each for each in entries if each.name in wanted]
    found = map_requests(lambda each: _finished(output, each, wanted[each.name]), named, storage.is_s3(output))
    return {one.shard.name: one for one in found if one is not None}


def _finished(output: str, entry: Entry, digest: str) -> Written | None:
    """What is recorded of a shard, if it is the one that is wanted and its file is still what was written."""
    try:
        found = json.loads(storage.read_bytes(_record(output, entry.name)))
        shard = WrittenShard(**found["shard"])
        if (found["digest"], found["mark"], shard.bytes) != (digest, entry.mark, entry.size):
            return None
        return Written(shard, np.array(found["lengths"], np.int64), dict(found["counts"]))
    except (storage.NotThere, ValueError, KeyError, TypeError):
        return None


def _was_cut_off(name: str) -> bool:
    """Whether this is what `storage.whole_file` was writing when its process was killed."""
    return name.startswith(".") and name.endswith(".tmp") and ".tar." in name


def _parts_of(rows: Iterable[PlannedRow]) -> Iterator[dict[str, bytes]]:
    """Parts of rows, in order; on S3 many pictures are asked for at a time."""
    for batch in _batches(rows):
        remote = any(storage.is_s3(picture.url) for row in batch for picture in row.pictures.values())
        yield from map_requests(_parts, batch, remote)


def _batches(rows: Iterable[PlannedRow]) -> Iterator[list[PlannedRow]]:
    batch: list[PlannedRow] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += row.stored_bytes
        if size >= _READ_AHEAD:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _parts(row: PlannedRow) -> dict[str, bytes]:
    parts = {part: _read(picture, without_secrets(row.where)) for part, picture in row.pictures.items()}
    return parts | {part: as_bytes(text) for part, text in row.texts.items()}


def _read(picture: Picture, where: str) -> bytes:
    try:
        data = storage.read_bytes(picture.url)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if len(data) != picture.size:
        raise UserError(
            f"{where}: {without_secrets(picture.url)} has changed since the rows were listed (then {picture.size} "
            f"bytes, now {len(data)}). Leave the pictures alone while shards are made of them."
        )
    return data
