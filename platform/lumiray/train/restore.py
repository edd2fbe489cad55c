"""Read a checkpoint into engines of any number of ranks and any ZeRO stage, or into plain tensors.

What a rank needs is the overlap of its own slices with the saved ones, so the same lines serve one rank and many.
Every file is checked before the first weight is written, and the ranks agree that all is well before any of them
enters a collective: a damaged file ends the run on every rank with the same message, and nothing hangs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lumiray.errors import RunFailure, UserError
from lumiray.train.adapters import merged
from lumiray.train.average import AVERAGE
from lumiray.train.checkpoint_files import fetched, open_tensors
from lumiray.train.fragments import load_fragments, load_frozen_state
from lumiray.train.frozen import buffers, own_part
from lumiray.train.layout import is_partitioned, layout_of, shape_of
from lumiray.train.loss_scale import load_loss_scale
from lumiray.train.manifest import KINDS, Manifest, SavedFile, SavedPiece, tensor_name
from lumiray.train.slices import FROZEN, MASTER

_NAMED = 8  # names of tensors in a message
Span = tuple[str, int, int]  # name, first element, elements


class SavedState:
    """One player's tensors in a checkpoint: a `Lookup` over its files, which are fetched and checked once."""

    def __init__(self, manifest: Manifest, player: str, stack: ExitStack) -> None:
        self.manifest, self.player, self.tensors = manifest, player, manifest.players[player].tensors
        self._stack = stack
        self._readers: dict[str, Any] = {}
        self._pieces: dict[str, list[tuple[SavedPiece, SavedFile]]] = {}
        for one in manifest.files:
            for piece in one.pieces:
                if piece.player == player:
                    self._pieces.setdefault(piece.name, []).append((piece, one))

    def fetch(self, spans: Iterable[Span]) -> None:
        """Fetch and check every file with an element of the spans.

        Raises:
            RunFailure: names the file that is damaged, and the checkpoint before it.
        """
        for name, start, length in spans:
            for _, one in self._overlaps(name, start, length):
                if one.name not in self._readers:
                    path = self._stack.enter_context(fetched(self.manifest, one))
                    self._readers[one.name] = open_tensors(self.manifest, one, path)

    def _overlaps(self, name: str, start: int, length: int) -> list[tuple[SavedPiece, SavedFile]]:
        return [
            (piece, one)
            for piece, one in self._pieces.get(name, ())
            if piece.start < start + length and start < piece.start + piece.length
        ]

    def values(self, name: str, key: str, start: int, length: int) -> Tensor:
        """Elements [start, start + length) of a fetched tensor, `(length,)`, in the saved dtype."""
        if key in (MASTER, FROZEN):  # a weight that was trained may be frozen now, and the other way round
            key = KINDS[self.tensors[name].kind]
        parts = []
        for piece, one in sorted(self._overlaps(name, start, length), key=lambda found: found[0].start):
            first = max(start - piece.start, 0)
            last = min(start + length - piece.start, piece.length)
            stored = self._readers[one.name].get_slice(tensor_name(self.player, name, key))
            parts.append(stored[first:last])
        if not parts:
            return torch.empty(0)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def moments(self, name: str) -> frozenset[str]:
        """Keys of the moments that were saved for a parameter."""
        return frozenset(key for piece, _ in self._pieces.get(name, ()) for key in piece.keys if key != self._key(name))

    def _key(self, name: str) -> str:
        return KINDS[self.tensors[name].kind]

    def step(self, name: str) -> int | None:
        """The optimizer's count of steps for a parameter."""
        return self.tensors[name].step


def restore(manifest: Manifest, engines: Mapping[str, Any]) -> dict[str, Any]:
    """Load weights, moments, step counts, frozen weights, buffers and loss scales.  Every rank must call it.

    Returns:
        the position that was saved with them.

    Raises:
        RunFailure: tensors are missing or unexpected, of another shape, or a file is damaged; on every rank alike.
    """
    with ExitStack() as stack:
        saved: dict[str, SavedState] = {}
        error = None
        try:
            for player, engine in engines.items():
                check_names(manifest, player, engine)
                saved[player] = SavedState(manifest, player, stack)
                saved[player].fetch(own_spans(engine))
        except (UserError, OSError) as found:
            error = str(found)
        _agree(error, next(iter(engines.values())).device)
        for player, engine in engines.items():
            load_fragments(engine, saved[player])
            load_frozen_state(engine, saved[player])
            load_loss_scale(engine, manifest.players[player].loss_scale)
    return dict(manifest.position)


def own_spans(engine: Any) -> list[Span]:
    """What this rank holds of an engine's state."""
    layout = layout_of(engine)
    spans = [(piece.name, piece.start, piece.length) for _, piece in layout.places.values()]
    for name in layout.frozen:
        if is_partitioned(engine):
            part = own_part(name, layout.parameters[name])
            spans.append((name, part.start, part.values.numel()))
        else:
            spans.append((name, 0, layout.parameters[name].numel()))
    return spans + [(name, 0, value.numel()) for name, value in buffers(engine.module).items()]


def check_names(manifest: Manifest, player: str, engine: Any) -> None:
    """See that checkpoint and engine have the same tensors.

    Raises:
        RunFailure: names those that are missing, unexpected, or of another shape.
    """
    if player not in manifest.players:
        raise RunFailure(
            f"{manifest.url} holds the players {', '.join(manifest.players)}, but not {player!r}: "
            "it is of another system or stage."
        )
    tensors = manifest.players[player].tensors
    wanted = {name: shape_of(value) for name, value in layout_of(engine).parameters.items()}
    wanted |= {name: tuple(value.shape) for name, value in buffers(engine.module).items()}
    shaped = [
        f"{name} {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in tensors and tensors[name].shape != shape
    ]
    wrong = {
        "has no": [name for name in wanted if name not in tensors],
        "has, but this run does not,": [name for name in tensors if name not in wanted],
        "has another shape of": shaped,
    }
    said = [f"it {what} {_some(names)}" for what, names in wrong.items() if names]
    if said:
        raise RunFailure(
            f"{manifest.url} does not fit player {player!r} of this run: {'; '.join(said)}. "
            "It is of another model or configuration."
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _agree(error: str | None, device: torch.device) -> None:
    """Raise on every rank if any rank has an error, with the message of the first of them."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        none = dist.get_world_size()
        first = torch.tensor([none if error is None else dist.get_rank()], device=device)
        dist.all_reduce(first, op=dist.ReduceOp.MIN)
        if int(first) == none:
            return
        text = torch.zeros(2048, dtype=torch.uint8, device=device)
        if int(first) == dist.get_rank() and error is not None:
            encoded = error.encode()[: len(text)]
            text[: len(encoded)] = torch.tensor(list(encoded), dtype=torch.uint8)
        dist.broadcast(text, src=int(first))
        error = bytes(text.tolist()).rstrip(b"\0").decode(errors="ignore")
    if error is not None:
        raise RunFailure(error)


def export_model(manifest: Manifest) -> dict[str, Tensor]:
    """Whole weights and buffers of all players, without any engine or process group.

    Returns:
        stored name -> tensor of its shape on the CPU: weights in fp32 (trained ones averaged where the run averages
        them, else the master values; low-rank adapters added in), other tensors in their own dtype.  Tied weights
        appear under every name that they have.

    Raises:
        RunFailure: a file is damaged.
    """
    found: dict[str, Tensor] = {}
    for player, one in manifest.players.items():
        with ExitStack() as stack:
            saved = SavedState(manifest, player, stack)
            saved.fetch((name, 0, tensor.size) for name, tensor in one.tensors.items())
            for name, tensor in one.tensors.items():
                key = AVERAGE if AVERAGE in saved.moments(name) else KINDS[tensor.kind]
                value = saved.values(name, key, 0, tensor.size).clone().view(tensor.shape)
                found[name] = value.float() if value.is_floating_point() and tensor.kind != "buffer" else value
        found |= {alias: found[name] for alias, name in one.aliases.items()}
    return merged(found)
