"""A checkpoint's table of contents: which tensors, cut how, in which files with which checksums.

It is plain JSON and written last, so a folder without one is no checkpoint, however the run was killed.  It comes
from storage that others may write to, so every field is checked before anything is done with it, and a file's name
can never leave the folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lumiray.errors import RunFailure, UserError
from lumiray.storage import NotThere, base_name, join, list_names, parent, read_bytes
from lumiray.train.slices import BUFFER, FROZEN, MASTER

FORMAT = "lumiray-checkpoint/1"
NAME = "manifest.json"
FOLDER = "checkpoints"
KINDS = {"trained": MASTER, "frozen": FROZEN, "buffer": BUFFER}  # kind of a tensor -> key of its saved values
_STEP = re.compile(r"step-(\d{8,})")
_FILE = re.compile(r"rank-\d{5,}-of-\d{5,}-[0-9a-f]+-\d+\.safetensors")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SavedTensor:
    """A parameter or buffer of one player.

    Args:
        kind: trained, frozen or buffer.
        step: the optimizer's count of steps; None if it kept none.
    """

    shape: tuple[int, ...]
    kind: str
    step: int | None = None

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class SavedPiece:
    """Elements [start, start + length) of a tensor in one file, once for every key (master, moments)."""

    player: str
    name: str
    start: int
    length: int
    keys: tuple[str, ...]


@dataclass(frozen=True)
class SavedFile:
    """One safetensors file; tensors in it are named by `tensor_name`, each of one dimension."""

    name: str
    size: int
    blake2b: str
    pieces: tuple[SavedPiece, ...]


@dataclass(frozen=True)
class SavedPlayer:
    """State of one engine besides its tensors' values.

    Args:
        loss_scale: plain numbers of the fp16 loss scaler; None without one.
        aliases: further names of tensors that share their values (tied weights) -> the name they are saved under.
    """

    tensors: dict[str, SavedTensor]
    loss_scale: dict[str, float] | None
    aliases: dict[str, str]


@dataclass(frozen=True)
class Manifest:
    """What one complete checkpoint holds.

    Args:
        url: the checkpoint's folder.
        position: what the caller saved beside the weights; plain JSON.
        metrics: newest evaluation at the time of saving.
        identity: settings of the run that wrote it, by the caller.
    """

    url: str
    step: int
    world_size: int
    position: dict[str, Any]
    metrics: dict[str, float]
    identity: dict[str, Any]
    players: dict[str, SavedPlayer]
    files: tuple[SavedFile, ...]

    def verify(self) -> None:
        """Read every file and compare its size and checksum.

        Raises:
            RunFailure: names the file that is missing, truncated or changed, and the checkpoint before it.
        """
        from lumiray.train.checkpoint_files import fetched

        for one in self.files:
            with fetched(self, one):
                pass

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(one.size for one in self.files)


def tensor_name(player: str, name: str, key: str) -> str:
    """What a piece's values are called inside a file."""
    return f"{player}/{name}/{key}"


def encode(manifest: Manifest) -> bytes:
    """JSON with a checksum over its own content."""
    body = {
        "format": FORMAT,
        "step": manifest.step,
        "world_size": manifest.world_size,
        "position": manifest.position,
        "metrics": manifest.metrics,
        "identity": manifest.identity,
        "players": {
            player: {
                "loss_scale": one.loss_scale,
                "aliases": one.aliases,
                "tensors": {
                    name: {"shape": list(tensor.shape), "kind": tensor.kind, "step": tensor.step}
                    for name, tensor in one.tensors.items()
                },
            }
            for player, one in manifest.players.items()
        },
        "files": [file_record(one) for one in manifest.files],
    }
    return json.dumps({"checksum": _checksum(body), **body}).encode()


def file_record(one: SavedFile) -> dict[str, Any]:
    """A file's entry as plain JSON; pieces are lists [player, name, start, length, keys]."""
    pieces = [[p.player, p.name, p.start, p.length, list(p.keys)] for p in one.pieces]
    return {"name": one.name, "size": one.size, "blake2b": one.blake2b, "pieces": pieces}


def _checksum(body: dict[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


class _Wrong(ValueError):
    """A field that is not as it should be."""


def decode(url: str, data: bytes) -> Manifest:
    """Read a manifest, believing nothing.

    Raises:
        RunFailure: not JSON, another format, a checksum that does not fit, or a field that cannot be.
    """
    try:
        body = json.loads(data)
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise _Wrong(f"it is not of the format {FORMAT}")
        if body.pop("checksum", None) != _checksum(body):
            raise _Wrong("its checksum does not fit its content")
        found = Manifest(
            url=url,
            step=_count(body["step"], "step"),
            world_size=_count(body["world_size"], "world_size"),
            position=_plain(body["position"], "position"),
            metrics=_plain(body["metrics"], "metrics"),
            identity=_plain(body["identity"], "identity"),
            players={player: _player(one) for player, one in _plain(body["players"], "players").items()},
            files=tuple(decode_file(one) for one in body["files"]),
        )
        check_cover(found)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise RunFailure(f"{join(url, NAME)} cannot be used: {reason}. {mend(url)}") from None
    return found


def _count(value: Any, field: str) -> int:
    if type(value) is not int or value < 0:
        raise _Wrong(f"{field} is {value!r}, not a count")
    return value


def _plain(value: Any, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Wrong(f"{field} is no table")
    return value


def _player(one: dict[str, Any]) -> SavedPlayer:
    tensors = {}
    for name, tensor in _plain(one["tensors"], "tensors").items():
        if tensor["kind"] not in KINDS:
            raise _Wrong(f"{name} is of the unknown kind {tensor['kind']!r}")
        shape = tuple(_count(size, f"shape of {name}") for size in tensor["shape"])
        step = None if tensor["step"] is None else _count(tensor["step"], f"step of {name}")
        tensors[name] = SavedTensor(shape, tensor["kind"], step)
    scale = one["loss_scale"]
    if scale is not None and not all(isinstance(n, int | float) for n in _plain(scale, "loss_scale").values()):
        raise _Wrong("loss_scale holds something that is no number")
    aliases = _plain(one["aliases"], "aliases")
    unknown = [name for name in aliases.values() if name not in tensors]
    if unknown:
        raise _Wrong(f"an alias names {unknown[0]!r}, which is not there")
    return SavedPlayer(tensors, scale, aliases)


def decode_file(one: dict[str, Any]) -> SavedFile:
    """A file's entry from plain JSON.

    Raises:
        ValueError, KeyError, TypeError: it is not as `file_record` makes it.
    """
    name = one["name"]
    if not isinstance(name, str) or not _FILE.fullmatch(name):
        raise _Wrong(f"{name!r} is no name of a file in a checkpoint")
    pieces = []
    for player, tensor, start, length, keys in one["pieces"]:
        start, length = _count(start, f"start of {tensor}"), _count(length, f"length of {tensor}")
        pieces.append(SavedPiece(str(player), str(tensor), start, length, tuple(map(str, keys))))
    return SavedFile(name, _count(one["size"], f"size of {name}"), str(one["blake2b"]), tuple(pieces))


def check_cover(manifest: Manifest) -> None:
    """See that the pieces make whole tensors.

    Raises:
        ValueError: names a tensor with a gap, or a piece outside of its tensor.
    """
    cover: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    for one in manifest.files:
        for piece in one.pieces:
            if piece.name not in manifest.players[piece.player].tensors:
                raise _Wrong(f"{one.name} holds {piece.name}, which the manifest does not list")
            for key in piece.keys:
                cover.setdefault((piece.player, piece.name, key), []).append((piece.start, piece.length))
    for player, saved in manifest.players.items():
        for name, tensor in saved.tensors.items():
            cover.setdefault((player, name, KINDS[tensor.kind]), [])
    for (player, name, key), spans in cover.items():
        end, size = 0, manifest.players[player].tensors[name].size
        for start, length in sorted(spans):
            if start != end:
                raise _Wrong(f"elements of {name} ({key}) from {min(start, end)} on are missing or doubled")
            end += length
        if end != size:
            raise _Wrong(f"{name} ({key}) has {end} of {size} elements")


def folder_of(output_url: str, step: int) -> str:
    """Where a run's checkpoint of a step lies."""
    return join(output_url, FOLDER, f"step-{step:08d}")


def step_folders(output_url: str) -> list[str]:
    """Folders of a run's checkpoints, complete or not, newest first."""
    folder = join(output_url, FOLDER)
    found = [match for name in list_names(folder) if (match := _STEP.fullmatch(name))]
    return [join(folder, match[0]) for match in sorted(found, key=lambda match: -int(match[1]))]


def complete(output_url: str) -> Iterator[Manifest]:
    """Checkpoints of a run that can be used, newest first; a damaged manifest is logged and passed over."""
    for url in step_folders(output_url):
        try:
            yield decode(url, read_bytes(join(url, NAME)))
        except NotThere:
            continue  # killed while it was written
        except RunFailure as error:
            log.warning("%s", error)


def latest(output_url: str) -> Manifest | None:
    """The newest complete checkpoint of a run, or None."""
    return next(complete(output_url), None)


def open_checkpoint(url: str) -> Manifest:
    """A checkpoint's folder, or a run's output folder for its newest checkpoint.

    Raises:
        UserError: there is none.  RunFailure: it is damaged.
    """
    try:
        return decode(url.rstrip("/"), read_bytes(join(url, NAME)))
    except NotThere:
        found = latest(url)
    if found is None:
        raise UserError(
            f"{url} is no checkpoint and holds none: give a run's output folder, or one of its "
            f"{FOLDER}/step-* folders (those without {NAME} were not finished)."
        )
    return found


def mend(url: str) -> str:
    """What a user can do about a damaged checkpoint: the complete one before it, if any."""
    step = _STEP.fullmatch(base_name(url))
    output = parent(parent(url))
    for other in step_folders(output) if step else []:
        number = _STEP.fullmatch(base_name(other))
        if number and step and int(number[1]) < int(step[1]) and NAME in list_names(other):
            return f"Continue from the checkpoint before it, in another output: --output NEW --resume {other}"
    return "There is no earlier checkpoint beside it: start the run again in another output folder."
