"""The random generator of one row: a function of what the row is, never of who reads it or when.

Shard path and row number name a row, for keys may repeat.  The same row gives the same tensor after a restart
and on any number of workers.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np

_MASK64 = (1 << 64) - 1


def row_generator(seed: int, epoch: int, source: str, shard_path: str, row: int, draw: int = 0) -> np.random.Generator:
    """A generator for every random choice made for one row.

    Args:
        seed: the run's seed.
        epoch: the source's own epoch.
        source: the source's name.
        shard_path: `ShardSet.name_of` the shard: relative, so that moved data keep their choices.
        row: row within the shard.
        draw: 0, or the attempt where a row is drawn again.
    """
    numbers = struct.pack("<QQQQ", seed & _MASK64, epoch, row, draw)
    names = f"{source}\x1f{shard_path}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(names, digest_size=16, key=numbers).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
