"""The numbered system: real decoding, random darkening and noise; what is learnt is the number of the step."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lumiray.data.decode import decode
from lumiray.system import BadRow, Batch, Optimizer, Player, Record, Row, Stage, System, Term
from numbered.config import NumberedConfig
from numbered.picture import numbers_in

if TYPE_CHECKING:
    from torch import nn


class Numbered(System):
    """Pictures `(3, 16, 24)` whose pixels tell which row they are."""

    slug = "numbered"
    config_class = NumberedConfig
    config: NumberedConfig

    def stages(self) -> tuple[Stage, ...]:
        player = Player("clock", ("clock",), Optimizer("sgd", lr=1.0))
        return (Stage("look", Record.CLEAN, (player,)),)

    def build(self, stage: Stage) -> nn.ModuleDict:
        from torch import nn

        from numbered.clock import Clock

        self.networks = nn.ModuleDict({"clock": Clock()})
        return self.networks

    def losses(self, player: str, batch: Batch, step: int) -> dict[str, Term]:
        """One term that moves the clock by a step; which rows are there is recorded."""
        from numbered.clock import record

        clock: Any = self.networks["clock"]
        time.sleep(self.config.pause_s)
        if self.config.record is not None:
            numbers = numbers_in(batch["pixels"].cpu().numpy())
            record(self.config.record, round(float(clock.steps)), numbers, batch["process"].cpu().numpy())
        return {"clock": Term.mean(clock())}

    def prepare(self, stage: Stage, row: Row, draw: np.random.Generator | None) -> dict[str, Any]:
        """`pixels` uint8 (3, 16, 24), `drawn`, a random number, and the `process` that decoded them."""
        if "png" not in row.parts:
            raise BadRow("the row has no picture")
        pixels = decode(row.parts["png"]).transpose(2, 0, 1)
        if row.identity == self.config.crash_at:
            self.crash_once()
        if row.identity == self.config.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        noise = 0.0
        if draw is not None:
            noise = draw.random()
            pixels = pixels * draw.uniform(0.6, 0.9) + draw.uniform(0, 25, pixels.shape)
        arrays = {"pixels": pixels.astype(np.uint8), "drawn": np.float64(noise), "process": np.int64(os.getpid())}
        ballast = {"ballast": np.zeros(self.config.ballast_bytes, np.uint8)} if self.config.ballast_bytes else {}
        return arrays | ballast

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
        if self.config.journal is not None:
            with open(self.config.journal, "a") as file:
                file.write(f"{os.getpid()}\n")
        return super().collate(rows)

    def crash_once(self) -> None:
        """End this process as the out-of-memory killer would."""
        mark = Path(f"{self.config.journal}.crashed")
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


SYSTEM = Numbered
