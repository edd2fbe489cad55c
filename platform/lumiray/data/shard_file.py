"""One shard as a file: a tar archive in bytes that depend on its rows alone, there whole or not at all."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO

import numpy as np

from lumiray import storage
from lumiray.data.catalog import Rows
from lumiray.data.header import BLOCK, padded
from lumiray.data.manifest import WrittenShard
from lumiray.data.tar import split_name


@dataclass(frozen=True)
class Written:
    """A shard that was written.

    Args:
        lengths: bytes of each of its rows, headers and padding included: int64 (n,).
        counts: what its writer counted besides.
    """

    shard: WrittenShard
    lengths: np.ndarray
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> Rows:
        """Where its rows are: they follow each other from the first byte on."""
        return Rows(np.cumsum(self.lengths) - self.lengths, self.lengths)


class ShardFile:
    """A tar archive that grows row by row.

    Args:
        file: where its bytes go.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._lengths: list[int] = []
        self._size = 0

    def has_room(self, size: int, rows_per_shard: int, max_bytes: int) -> bool:
        """Whether a row of so many bytes still fits; the first always does."""
        return not self._lengths or (len(self._lengths) < rows_per_shard and self._size + size <= max_bytes)

    def add(self, key: str, parts: Mapping[str, bytes]) -> None:
        """Append a row.

        Raises:
            ValueError: it has no parts, or a name that would not be read back as it is.
        """
        start = self._size
        if not parts:
            raise ValueError(f"row {key!r} has no parts")
        for part in sorted(parts):
            name = f"{key}.{part}"
            if split_name(name) != (key, part):
                raise ValueError(f"key {key!r} with part {part!r} would not be read back as it is")
            info = tarfile.TarInfo(name)  # its defaults: no owner, time 0, rights 0644
            info.size = len(parts[part])
            self._write(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
            self._write(parts[part])
            self._write(bytes(padded(info.size) - info.size))
        self._lengths.append(self._size - start)

    def close(self, name: str) -> Written:
        """End the archive; what was written, under the base name that it will have."""
        self._write(bytes(2 * BLOCK))
        shard = WrittenShard(name, len(self._lengths), self._size, self._digest.hexdigest())
        return Written(shard, np.array(self._lengths, np.int64))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)


@contextmanager
def staged(url: str) -> Iterator[IO[bytes]]:
    """A file that appears at its address only when it was written to the end."""
    if not storage.is_s3(url):
        with storage.clear_errors(url, "write"), storage.whole_file(storage.local_path(url)) as file:
            yield file
        return
    with tempfile.NamedTemporaryFile(suffix=".tar") as temporary:
        yield temporary
        temporary.flush()
        storage.put_file(temporary.name, url)
