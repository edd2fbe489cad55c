"""Settings of the numbered system: what it leaves behind, and where one of its processes crashes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NumberedConfig:
    """Nothing but what tests look at."""

    journal: str | None = None
    """A file that gets one line for every block that was decoded."""
    crash_at: int | None = None
    """The row at which a decoder kills its own process, once: the file `journal`.crashed says that it did."""
    deadly: int | None = None
    """The row at which every process ends."""
    record: str | None = None
    """A folder where every micro-batch that is trained on is noted."""
    ballast_bytes: int = 0
    """Of zeros that every row carries besides, so that blocks are as large as those of photographs."""
    pause_s: float = 0.0
    """What a forward pass takes."""


CONFIG = NumberedConfig
