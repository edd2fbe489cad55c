"""The safetensors files of a checkpoint: written from memory without a copy, read only after their checksum fits.

The format is a length, a JSON header and raw bytes, so writing it here costs no second copy of the state, and both
hashing and writing leave the interpreter to the training loop.  Reading goes through the safetensors library.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import torch
from torch import Tensor

from lumiray.errors import RunFailure
from lumiray.storage import NotThere, clear_errors, entry, is_s3, join, local_path, open_url, whole_file
from lumiray.train.manifest import Manifest, SavedFile, mend, tensor_name

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_BLOCK = 4 << 20  # bytes between two chances for other threads, and for one request's buffer


def write_tensors(url: str, tensors: Sequence[tuple[str, Tensor]]) -> tuple[int, str]:
    """Write named tensors of one dimension, in memory of the CPU, as a safetensors file.

    Returns:
        bytes, and the blake2b checksum (32 bytes, hexadecimal).
    """
    ordered = sorted(tensors, key=lambda one: -one[1].element_size())  # keeps every tensor aligned
    header: dict[str, Any] = {}
    offset = 0
    for name, value in ordered:
        end = offset + value.numel() * value.element_size()
        header[name] = {
            "dtype": _DTYPES[value.dtype],
            "shape": [value.numel()],
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.blake2b(digest_size=32)
    with _writing(url) as file:
        for block in _blocks(len(text).to_bytes(8, "little") + text, ordered):
            digest.update(block)
            file.write(block)
    return 8 + len(text) + offset, digest.hexdigest()


@contextmanager
def _writing(url: str) -> Iterator[IO[bytes]]:
    with clear_errors(url, "write"):
        if is_s3(url):
            with open_url(url, "wb") as file:
                yield file
        else:
            with whole_file(local_path(url)) as file:
                yield file


def _blocks(head: bytes, tensors: Sequence[tuple[str, Tensor]]) -> Iterator[memoryview]:
    yield memoryview(head)
    for _, value in tensors:
        raw = memoryview(value.contiguous().view(torch.uint8).numpy())
        for start in range(0, len(raw), _BLOCK):
            yield raw[start : start + _BLOCK]


@contextmanager
def fetched(manifest: Manifest, one: SavedFile) -> Iterator[str]:
    """The local path of a checkpoint's file, whose size and checksum fit; from S3 by way of a temporary file.

    Raises:
        RunFailure: names the file that is missing, truncated or changed, and the checkpoint before it.
    """
    url = join(manifest.url, one.name)
    try:
        size = entry(url).size
    except NotThere:
        raise damaged(manifest, one, "it is missing") from None
    if size != one.size:
        raise damaged(manifest, one, f"it has {size} bytes instead of {one.size}")
    if not is_s3(url):
        with open(local_path(url), "rb") as file:
            _check(manifest, one, file, None)
        yield local_path(url)
        return
    with tempfile.TemporaryDirectory(prefix="lumiray-") as folder:
        path = os.path.join(folder, one.name)
        with clear_errors(url, "read"), open_url(url) as file, open(path, "wb") as copy:
            _check(manifest, one, file, copy)
        yield path


def _check(manifest: Manifest, one: SavedFile, file: IO[bytes], copy: IO[bytes] | None) -> None:
    digest = hashlib.blake2b(digest_size=32)
    while block := file.read(_BLOCK):
        digest.update(block)
        if copy is not None:
            copy.write(block)
    if digest.hexdigest() != one.blake2b:
        raise damaged(manifest, one, "its checksum does not fit")


def damaged(manifest: Manifest, one: SavedFile, what: str) -> RunFailure:
    """The error that names a checkpoint's bad file and the way on."""
    return RunFailure(f"{join(manifest.url, one.name)} is damaged: {what}. {mend(manifest.url)}")


def open_tensors(manifest: Manifest, one: SavedFile, path: str) -> Any:
    """A safetensors reader of a fetched file that holds what the manifest says.

    Raises:
        RunFailure: it is no safetensors file, or its tensors are others.
    """
    from safetensors import SafetensorError, safe_open

    try:
        reader = safe_open(path, framework="pt")
        for piece in one.pieces:
            for key in piece.keys:
                shape = reader.get_slice(tensor_name(piece.player, piece.name, key)).get_shape()
                if list(shape) != [piece.length]:
                    raise damaged(manifest, one, f"{piece.name} ({key}) has the shape {shape}")
    except SafetensorError as error:
        raise damaged(manifest, one, f"it is not the safetensors file that the manifest lists ({error})") from None
    return reader
