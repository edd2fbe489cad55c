"""What is wrong with a set of shards: every byte is read, every picture decoded, nothing is changed.

Run before a long training, or after a copy: `lumiray shards verify PATTERNS`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lumiray import storage
from lumiray.data.catalog import Catalog
from lumiray.data.cut import NO_CAPTION
from lumiray.data.decode import decode
from lumiray.data.fetch import Window, window_of
from lumiray.data.listing import Listed, find
from lumiray.data.parts import caption_in, pictures_in
from lumiray.data.tar import MAX_ROW_BYTES, BadShard, ShardScan, read_row, scan_window
from lumiray.data.write import WrittenShard, read_manifest
from lumiray.errors import UserError
from lumiray.storage import without_secrets
from lumiray.system import BadRow

_SHOWN = 20  # problems of one shard; more are counted


def verify(
    patterns: str | Sequence[str],
    scan_map: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]] = map,
) -> list[str]:
    """Problems of the shards that the patterns name, one line each; an empty list if there are none.

    Found are: archives that are truncated, broken or not closed; duplicate keys and keys that differ in case
    only; empty members; pictures that do not decode; text that is not UTF-8; rows without picture or caption;
    shards that are not what their manifest says, or have changed since they were indexed.

    Args:
        scan_map: as in `ShardSet.open`.

    Raises:
        UserError: the patterns name nothing, or a shard is missing.
    """
    shards = find(patterns)
    problems: list[str] = []
    told: dict[str, WrittenShard] = {}
    for folder in dict.fromkeys(storage.parent(shard.url) for shard in shards):
        told.update(_manifest(folder, shards, problems))
        problems.extend(Catalog(folder, None).complaints([s for s in shards if storage.parent(s.url) == folder]))
    for found in scan_map(check_shard, [(shard, told.get(shard.url)) for shard in shards]):
        problems.extend(found)
    return problems


def _manifest(folder: str, shards: Sequence[Listed], problems: list[str]) -> dict[str, WrittenShard]:
    """What the folder's manifest says of its shards, by address."""
    try:
        manifest = read_manifest(folder)
    except UserError as error:
        problems.append(str(error))
        return {}
    if manifest is None:
        return {}
    told = {storage.join(folder, shard.name): shard for shard in manifest.shards}
    there = {shard.url for shard in shards} | {storage.join(folder, name) for name in storage.list_names(folder)}
    problems.extend(
        f"{without_secrets(folder)}: {storage.base_name(url)} stands in the manifest and is missing"
        for url in told
        if url not in there
    )
    problems.extend(
        f"{without_secrets(shard.url)}: does not stand in the manifest of its folder"
        for shard in shards
        if storage.parent(shard.url) == folder and shard.url not in told
    )
    return told


def check_shard(job: tuple[Listed, WrittenShard | None]) -> list[str]:
    """Problems of one shard, given what its manifest says of it."""
    shard, told = job
    name = without_secrets(shard.url)
    try:
        with window_of(shard.url) as window:
            scan = scan_window(window, shard.url)
            problems = _archive(scan, told, shard, window)
            problems += _rows(scan, window)
    except BadShard as error:
        return [str(error)]
    except storage.NotThere as error:
        return [str(error)]
    shown = [f"{name}: {problem}" for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        shown.append(f"{name}: {len(problems) - _SHOWN} more problems")
    return shown


def _archive(scan: ShardScan, told: WrittenShard | None, shard: Listed, window: Window) -> list[str]:
    problems = []
    if not scan.ended:
        problems.append("the archive is not closed: its writer may have been cut off between two rows")
    if not len(scan):
        problems.append("there are no rows")
    problems += [f"key {key!r} comes more than once" for key in scan.duplicates]
    if told is None:
        return problems
    if (shard.size, len(scan)) != (told.bytes, told.rows):
        problems.append(
            f"has {len(scan)} rows and {shard.size} bytes, its manifest says {told.rows} rows and {told.bytes} bytes"
        )
    elif _checksum(window) != told.sha256:
        problems.append("its checksum is not that of the manifest")
    return problems


def _checksum(window: Window) -> str:
    digest = hashlib.sha256()
    for start in range(0, window.size, 8 << 20):
        digest.update(window.read(start, min(8 << 20, window.size - start)))
    return digest.hexdigest()


def _rows(scan: ShardScan, window: Window) -> list[str]:
    problems: list[str] = []
    reasons: list[tuple[int, str, list[str]]] = []
    folded: Counter[str] = Counter()
    keys: set[str] = set()
    for number, (start, length) in enumerate(zip(scan.row_offsets.tolist(), scan.row_lengths.tolist(), strict=True)):
        if length > MAX_ROW_BYTES:
            problems.append(f"row {number} has {length} bytes, more than {MAX_ROW_BYTES} are not read")
            continue
        try:
            row = read_row(window.read(start, length), number)
        except BadRow as error:
            problems.append(f"row {number}: {error}")
            continue
        reasons.append((number, row.key, _parts(dict(row.parts))))
        if row.key not in keys:
            keys.add(row.key)
            folded[row.key.lower()] += 1
    alone = all(NO_CAPTION in found for _, _, found in reasons)  # a set of pictures without any texts
    problems += [
        f"row {number} (key {key!r}): {reason}"
        for number, key, found in reasons
        for reason in found
        if not (alone and reason == NO_CAPTION)
    ]
    problems += [f"{count} keys are {key!r} but for case" for key, count in folded.items() if count > 1]
    return problems


def _parts(parts: dict[str, bytes]) -> list[str]:
    problems = [f".{part} is empty" for part, data in parts.items() if not data]
    pictures = [part for part in pictures_in(parts) if parts[part]]
    if not pictures_in(parts):
        problems.append("there is no picture")
    for part in pictures:
        try:
            decode(parts[part])
        except BadRow as error:
            problems.append(f".{part}: {error}")
    try:
        if "json" in parts:
            json.loads(parts["json"])
        caption = caption_in(parts)
        if len(pictures_in(parts)) < 2 and (caption is None or not caption.strip()):
            problems.append(NO_CAPTION)
    except UnicodeDecodeError:
        problems.append("the JSON is not UTF-8")
    except (ValueError, RecursionError) as error:
        problems.append(str(error) if isinstance(error, BadRow) else "the JSON cannot be read")
    return problems
