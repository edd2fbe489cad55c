"""Save checkpoints while training goes on, and find them again.

A save copies this rank's slices out of the device and returns; a thread writes them.  The ranks do not meet for it:
each leaves a small record beside its files, and rank 0's thread writes the manifest once all records are there.  A
collective from a thread would interleave with those of the training and hang.  Names of files are new for every
save, so that neither a killed run nor a late process of one can spoil a checkpoint that is complete.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from lumiray.errors import RunFailure, UserError
from lumiray.storage import NoAccess, NoBucket, join, list_names, read_bytes, remove_tree, write_atomically
from lumiray.train.checkpoint_files import write_tensors
from lumiray.train.manifest import (
    NAME,
    Manifest,
    SavedFile,
    check_cover,
    complete,
    decode_file,
    encode,
    file_record,
    folder_of,
    latest,
    open_checkpoint,
    step_folders,
    tensor_name,
)
from lumiray.train.restore import export_model, restore
from lumiray.train.retention import remove_checkpoint, superfluous
from lumiray.train.snapshot import HostBuffers, Snapshot, take

FILE_BYTES = 256 << 20  # a file ends with the first tensor past this size: what is fetched and checked at once
ATTEMPTS = 5
FIRST_PAUSE_S = 1.0  # before the second attempt; doubled each time
RECORDS_S = 3600.0  # how long rank 0 waits for the other ranks' records
CLOSE_S = 60.0  # how long a run that ends in an error waits for its last save
_SAVE = re.compile(r"rank-\d+-of-\d+-([0-9a-f]{8})([0-9a-f]+)[-.].*")
_T = TypeVar("_T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Save:
    """One save on one rank."""

    number: int
    step: int
    folder: str
    snapshot: Snapshot
    position: dict[str, Any]
    metrics: dict[str, float]


class Checkpointer:
    """Writes a run's checkpoints; one per rank, all made and called together.

    Args:
        output_url: the run's folder, local or s3://.
        keep: newest checkpoints that stay.
        best: (metric, "max" or "min") whose best checkpoint stays besides.
        identity: settings of the run, stored in every checkpoint.
    """

    def __init__(
        self,
        output_url: str,
        rank: int = 0,
        world_size: int = 1,
        keep: int = 3,
        best: tuple[str, str] | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self.output_url, self.rank, self.world_size = output_url, rank, world_size
        self.keep, self.best, self.identity = keep, best, dict(identity or {})
        self._metrics: dict[int, dict[str, float]] = {}
        self._buffers = HostBuffers()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._closing = threading.Event()
        self._saves = 0
        self._completed: float | None = None  # time of the last complete one, on rank 0
        try:
            if rank == 0:
                self._take_stock()
        finally:
            self._token = _common_token(world_size)  # no rank writes before rank 0 has cleared away

    def _take_stock(self) -> None:
        """Note the complete checkpoints, remove what a killed run left half done."""
        for url in step_folders(self.output_url):
            if NAME not in list_names(url):
                remove_checkpoint(url)
        self._metrics = {one.step: one.metrics for one in complete(self.output_url)}

    def save(
        self, step: int, engines: Mapping[str, Any], position: Mapping[str, Any], metrics: Mapping[str, float]
    ) -> None:
        """Copy the state out of the device, then write it behind the training.

        A save that is still being written is waited for.

        Args:
            engines: player -> DeepSpeed engine.
            position: plain JSON that `restore` gives back.
            metrics: newest evaluation; decides on the best checkpoint.

        Raises:
            RunFailure: the save before this one could not be written.
        """
        self._saves += 1  # also if the line below raises: ranks count alike
        self.wait()
        plain = json.loads(json.dumps({"position": dict(position), "metrics": dict(metrics)}))
        snapshot = take(engines, self._buffers)
        one = _Save(self._saves, step, folder_of(self.output_url, step), snapshot, **plain)
        self._thread = threading.Thread(target=self._run, args=(one,), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when the last save is complete: on rank 0 the whole checkpoint, elsewhere this rank's files.

        Raises:
            RunFailure: it could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Give a save that is under way a last chance; never raises, for it ends failed runs as well."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)
            self._thread = None

    def age_s(self) -> float | None:
        """Seconds since this process completed a checkpoint; None before, and on other ranks than 0."""
        return None if self._completed is None else time.monotonic() - self._completed

    def _run(self, one: _Save) -> None:
        try:
            self._write(one)
        except Exception as error:
            self._error = RunFailure(
                f"The checkpoint of step {one.step} could not be written to {one.folder}: {error} "
                "Checkpoints before it are as they were; mend the storage and start the same command again."
            )
            if not isinstance(error, UserError | OSError):
                self._error.__cause__ = error
            if self.rank:
                self._leave_record(one, {"error": str(error)})

    def _leave_record(self, one: _Save, record: dict[str, Any]) -> None:
        try:
            write_atomically(join(one.folder, self._record(one, self.rank)), json.dumps(record).encode())
        except (UserError, OSError) as error:
            log.warning("rank %d cannot even say that it failed: %s", self.rank, error)

    def _record(self, one: _Save, rank: int) -> str:
        return f"rank-{rank:05d}-of-{self.world_size:05d}-{self._token}{one.number:04x}.json"

    def _write(self, one: _Save) -> None:
        record = {
            "files": [file_record(file) for file in self._write_files(one)],
            "steps": {
                player: {name: tensor.step for name, tensor in saved.tensors.items() if tensor.step is not None}
                for player, saved in one.snapshot.players.items()
            },
        }
        if self.rank:
            name, data = self._record(one, self.rank), json.dumps(record).encode()
            retried(lambda: write_atomically(join(one.folder, name), data))
            return
        manifest = self._manifest(one, [record, *self._records(one)])
        check_cover(manifest)
        retried(lambda: write_atomically(join(one.folder, NAME), encode(manifest)))
        self._completed = time.monotonic()
        self._tidy(one)

    def _write_files(self, one: _Save) -> list[SavedFile]:
        files: list[SavedFile] = []
        batch: list[Any] = []
        size = 0
        for number, (piece, values) in enumerate(one.snapshot.pieces, start=1):
            batch.append((piece, values))
            size += sum(value.nbytes for value in values.values())
            if size >= FILE_BYTES or number == len(one.snapshot.pieces):
                stem = self._record(one, self.rank).removesuffix(".json")
                files.append(write_batch(one.folder, f"{stem}-{len(files)}.safetensors", batch))
                batch, size = [], 0
        return files

    def _records(self, one: _Save) -> list[dict[str, Any]]:
        """What the other ranks left, once all have."""
        wanted = {self._record(one, rank) for rank in range(1, self.world_size)}
        begin, pause = time.monotonic(), 0.05
        while missing := wanted - set(list_names(one.folder)) if wanted else wanted:
            limit = CLOSE_S / 2 if self._closing.is_set() else RECORDS_S
            if time.monotonic() - begin > limit:
                raise RunFailure(f"no word from {', '.join(sorted(missing)[:4])} within {limit:.0f} s.")
            time.sleep(pause)
            pause = min(pause * 1.5, 2.0)
        return [json.loads(retried(partial(read_bytes, join(one.folder, name)))) for name in sorted(wanted)]

    def _manifest(self, one: _Save, records: list[dict[str, Any]]) -> Manifest:
        failed = [record["error"] for record in records if "error" in record]
        if failed:
            raise RunFailure(f"another rank failed: {failed[0]}")
        players = {}
        for player, saved in one.snapshot.players.items():
            steps = {name: step for record in records for name, step in record["steps"][player].items()}
            tensors = {name: replace(tensor, step=steps.get(name)) for name, tensor in saved.tensors.items()}
            players[player] = replace(saved, tensors=tensors)
        files = tuple(decode_file(file) for record in records for file in record["files"])
        return Manifest(one.folder, one.step, self.world_size, one.position, one.metrics, self.identity, players, files)

    def _tidy(self, one: _Save) -> None:
        """Remove what older saves left in this folder, and checkpoints that are not kept."""
        self._metrics[one.step] = one.metrics
        try:
            for name in list_names(one.folder):
                found = _SAVE.fullmatch(name)
                if found and (found[1] != self._token or int(found[2], 16) < one.number):
                    remove_tree(join(one.folder, name))
            for step in superfluous(self._metrics, self.keep, self.best):
                if remove_checkpoint(folder_of(self.output_url, step)):
                    del self._metrics[step]
        except (UserError, OSError) as error:
            log.warning("an old checkpoint stays, for it cannot be removed: %s", error)


def write_batch(folder: str, name: str, batch: list[Any]) -> SavedFile:
    """Write (piece, values by key) pairs as one file, again and again while the storage fails."""
    tensors = [
        (tensor_name(piece.player, piece.name, key), value) for piece, values in batch for key, value in values.items()
    ]
    size, checksum = retried(lambda: write_tensors(join(folder, name), tensors))
    return SavedFile(name, size, checksum, tuple(piece for piece, _ in batch))


def retried(action: Callable[[], _T]) -> _T:
    """Do something on the storage again, with growing pauses, unless waiting cannot mend it."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return action()
        except (NoAccess, NoBucket):
            raise
        except (UserError, OSError) as error:
            log.warning("writing a checkpoint: %s; trying again", error)
            time.sleep(FIRST_PAUSE_S * 2**attempt)
    return action()


def _common_token(world_size: int) -> str:
    """Eight hexadecimal digits, new for every start of a run and equal on all ranks."""
    number = torch.tensor([secrets.randbits(32)])
    if world_size > 1:
        if dist.get_backend() == "nccl":
            number = number.cuda()
        dist.broadcast(number, src=0)
    return f"{int(number):08x}"


__all__ = ["Checkpointer", "Manifest", "export_model", "latest", "open_checkpoint", "restore"]
