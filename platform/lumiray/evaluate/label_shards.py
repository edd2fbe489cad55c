"""Image-text shards in, grounding shards out, a new one for each: boxes by a teacher, shared out over the cluster.

A new shard is there whole or not at all, and a finished one is kept: the same command goes on where it was stopped.
What another teacher, threshold or pipeline has labelled is labelled again.  Rows without a noun phrase or without a
box teach nothing: they are left out and counted, as are those that cannot be read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lumiray import storage
from lumiray.data.index import ShardSet
from lumiray.data.listing import Listed, find
from lumiray.data.manifest import Manifest, read_manifest
from lumiray.data.shard_file import Written
from lumiray.data.unfinished import MARKER, claim, finished, refuse_taken
from lumiray.data.write import conclude
from lumiray.errors import RunFailure
from lumiray.evaluate.label_options import LabelCommand
from lumiray.evaluate.noun_phrases import NounPhrases
from lumiray.evaluate.picture_folder import Report
from lumiray.evaluate.picture_pool import over_cluster, pool_of_workers
from lumiray.evaluate.run_weights import is_folder, with_own_weights
from lumiray.evaluate.teacher import COUNTED, Teacher, left_out
from lumiray.registry import require_use

LABELS = "labels.json"  # beside the shards: what they follow from, and what was counted


def label_shards(command: LabelCommand) -> Manifest:
    """Label what is not labelled yet; print a line for each shard and one for all.

    Raises:
        UserError: shards, weights or a pipeline that are missing or do not fit, or an output that holds other shards.
        RunFailure: a shard cannot be read, nothing could be written, or no row got a box (finished shards stay).
    """
    require_use(command.slug, "ground")
    command = _located(command)
    options, output = command.options, storage.absolute(command.options.output)
    listed = find(options.shards)
    digests = _digests(command, listed)
    wanted = {f"{number:05d}.tar": digest for number, digest in enumerate(digests)}
    done = _whole_set(output, digests)
    if done is not None:
        print(f"{done}: everything is labelled already", flush=True)
        return done
    refuse_taken(output)
    alone = options.workers == 1 and not os.environ.get("RAY_ADDRESS")
    shards = _opened(listed, alone)
    teacher = Teacher(command, shards, output, digests)  # refused before anything is written
    kept = claim(output, wanted)
    places = [(str(number), name) for number, name in enumerate(wanted) if name not in kept]
    if kept:
        print(f"{len(kept)} of {len(wanted)} shards are labelled already", flush=True)

    def reports() -> Iterator[Report]:
        if alone:
            yield from teacher(places)
        elif places:
            make = partial(Teacher, command, shards, output, digests)
            yield from over_cluster(make, places, 1, partial(pool_of_workers, options.workers))

    for number, report in enumerate(reports(), 1):
        print(f"{report.text} ({number} of {len(places)})", flush=True)
    return _concluded(output, wanted, finished(output, wanted))


def _located(command: LabelCommand) -> LabelCommand:
    """The command with places that hold in every process, and with one checkpoint where a run goes on training."""
    from lumiray.train.manifest import open_checkpoint

    config = with_own_weights(command.config)
    weights = getattr(config, "weights", None)
    if weights and is_folder(weights):
        config = dataclasses.replace(config, weights=open_checkpoint(weights).url)
    own = {name: storage.absolute(path) for name, path in _files(config).items()}
    model = command.options.phrases_model
    model = storage.absolute(model) if Path(model).is_dir() else model
    options = dataclasses.replace(command.options, phrases_model=model)
    return dataclasses.replace(command, options=options, config=dataclasses.replace(config, **own))


def _files(config: Any) -> dict[str, str]:
    """Settings that name files of this machine."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {name: value for name, value in values.items() if isinstance(value, str) and Path(value).is_file()}


def _digests(command: LabelCommand, listed: list[Listed]) -> list[str]:
    """For each shard a digest of all that its labels follow from."""
    config = command.config
    weights = getattr(config, "weights", None)
    places = dict(_files(config))
    if weights and weights not in places.values():
        places["weights"] = storage.join(weights, "manifest.json") if is_folder(weights) else weights
    common = {
        "system": command.slug,
        "settings": dataclasses.asdict(config),
        "files": {name: storage.entry(place).mark for name, place in places.items()},
        "phrases": NounPhrases(command.options.phrases_model).version,
        "threshold": command.options.threshold,
    }
    return [_digest(common | {"shard": one._asdict()}) for one in listed]


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def _opened(listed: list[Listed], alone: bool) -> ShardSet:
    if alone:
        return ShardSet.open(listed)
    from lumiray.data.parallel import open_shards
    from lumiray.train.cluster import start_ray

    start_ray()
    return open_shards(listed)


def _whole_set(output: str, digests: list[str]) -> Manifest | None:
    """The set that lies there whole, if it is what is asked for."""
    try:
        found = json.loads(storage.read_bytes(storage.join(output, LABELS)))
    except (storage.NotThere, ValueError):
        return None
    same = isinstance(found, dict) and found.get("digest") == _digest(digests)
    return read_manifest(output) if same and MARKER not in storage.list_names(output) else None


def _concluded(output: str, wanted: Mapping[str, str], found: Mapping[str, Written]) -> Manifest:
    """Call the set whole, and say what is in it."""
    written = [found[name] for name in wanted]
    total = Counter(dict.fromkeys(COUNTED, 0))
    for one in written:
        total.update(one.counts)
    rows = sum(one.shard.rows for one in written)
    if not rows:
        raise RunFailure(
            f"No row got a box{left_out(total)}. Look with `lumiray ground` at what the teacher finds, or lower "
            "--threshold."
        )
    about = {"digest": _digest(list(wanted.values()))} | dict(total)
    storage.write_atomically(storage.join(output, LABELS), (json.dumps(about, indent=1) + "\n").encode())
    manifest = conclude(output, written, total["rows"] - rows)
    print(f"{manifest}: {total['boxes']} boxes{left_out(total)}", flush=True)
    return manifest
