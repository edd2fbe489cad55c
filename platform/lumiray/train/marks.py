"""When the parts of a run's start were passed, in seconds since its command began: where the wait goes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Marks:
    """Names with seconds since `begin` (wall clock, so that driver and workers share it)."""

    begin: float
    passed: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of_this_process(cls) -> Marks:
        """Marks that count from the start of this process, imports included."""
        import psutil

        return cls(psutil.Process().create_time())

    def reach(self, name: str) -> None:
        """Note that a part is done; only the first time counts."""
        self.passed.setdefault(f"{name}_s", round(time.time() - self.begin, 3))
