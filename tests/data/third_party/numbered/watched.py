"""A stream that tells how far its plan has been written down."""

from __future__ import annotations

from dataclasses import dataclass

from lumiray.data.entries import StreamSpec


@dataclass(frozen=True)
class WatchedSpec(StreamSpec):
    """Adds a line to the file `planned` for every step of which the plan has been written down."""

    planned: str = ""

    def evaluation_due(self, step: int) -> bool:
        with open(self.planned, "a") as file:
            file.write(f"{step}\n")
        return super().evaluation_due(step)
