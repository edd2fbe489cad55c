"""Settings of the cropped system."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CroppedConfig:
    """How large pictures are decoded."""

    reduced_decoding: bool = False
    """As `ClipConfig.reduced_decoding`."""


CONFIG = CroppedConfig
