"""What a set of shards says of itself: `manifest.json` (counts, sizes, checksums) and `sizes.json` beside the shards.

`sizes.json` has open_clip's form.  The manifest is written last: where it lies, the set is whole.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from lumiray import storage
from lumiray.errors import UserError
from lumiray.storage import without_secrets

MANIFEST = "manifest.json"
SIZES = "sizes.json"
_FORM = "lumiray-shards-1"


@dataclass(frozen=True)
class WrittenShard:
    """One shard: base name, rows, bytes of the file, SHA-256 of the file."""

    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What was written.

    Args:
        output: folder of the shards.
        shards: in order.
        skipped: rows of the source that were left out.
    """

    output: str
    shards: tuple[WrittenShard, ...]
    skipped: int = 0

    @property
    def rows(self) -> int:
        """Rows of all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.bytes for shard in self.shards)

    def __str__(self) -> str:
        left_out = f", {self.skipped} left out" if self.skipped else ""
        size = f"{self.bytes / 1e6:.1f} MB"
        return f"{self.rows} rows in {len(self.shards)} shards ({size}{left_out}) in {without_secrets(self.output)}"


def read_manifest(folder: str) -> Manifest | None:
    """The manifest that lies beside shards, or None; raises `UserError` where it is damaged."""
    url = storage.join(folder, MANIFEST)
    try:
        found = json.loads(storage.read_bytes(url))
        if found.get("form") != _FORM:
            return None
        return Manifest(folder, tuple(WrittenShard(**shard) for shard in found["shards"]), int(found["skipped"]))
    except storage.NotThere:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{without_secrets(url)} is damaged: remove it, or write the shards again.") from None


def write_manifest(manifest: Manifest) -> None:
    """Put both files beside the shards, the manifest last."""
    _write_json(storage.join(manifest.output, SIZES), {shard.name: shard.rows for shard in manifest.shards})
    summary = {"form": _FORM, "rows": manifest.rows, "bytes": manifest.bytes, "skipped": manifest.skipped}
    shards = [asdict(shard) for shard in manifest.shards]
    _write_json(storage.join(manifest.output, MANIFEST), summary | {"shards": shards})


def _write_json(url: str, value: Any) -> None:
    storage.write_atomically(url, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())
