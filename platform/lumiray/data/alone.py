"""Rows that may end the process which decodes them: each tried by itself, in a process made for it.

A decoder that dies takes nothing with it but its task, which Ray gives to another one.  Were the cause a row, that
one would die of it, too, and so on without end.  So rows of a task that has begun once before are decoded here: a row
that ends a fresh process twice is bad, and is named; all others, and whatever was only in a dead decoder's way (memory
that was short, a node that was lost), are what they always were.
"""

from __future__ import annotations

from typing import Any

import ray

from lumiray.data.decoder import Decoder, Draw, Prepared
from lumiray.data.entries import StreamSpec
from lumiray.system import BadRow, Row

TIMES = 2  # that a row may end a process before it is bad


class Alone:
    """Prepares rows one by one in a process that may die of them."""

    def __init__(self, spec: StreamSpec) -> None:
        self._spec = spec
        self._process: Any = None

    def prepare(self, row: Row, draw: Draw) -> Prepared:
        """As `Decoder.prepare`.

        Raises:
            BadRow: it cannot be used, or it ended its process every time.
        """
        for _ in range(TIMES):
            self._process = self._process or ray.remote(num_cpus=0)(Decoder).remote(self._spec)
            try:
                prepared: Prepared = ray.get(self._process.prepare.remote(row, draw))
                return prepared
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayActorError:
                self._process = None
        raise BadRow(f"it ended the process that decoded it {TIMES} times")

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            ray.kill(self._process)
