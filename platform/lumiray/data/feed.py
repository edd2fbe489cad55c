"""A rank's stream as tensors on its device, one step ahead of the training loop.

A thread takes blocks from the stream, joins them to the rank's rows of a step, and copies them to the
device, so that the loop finds its next step ready.  The time it has to wait all the same is counted: that
share is what tells a run that it is bound by data.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lumiray.data.decoder import Block
from lumiray.data.entries import EVALUATE
from lumiray.system import Batch


@dataclass(frozen=True)
class Delivery:
    """Rows that belong together: a rank's share of a step, or one evaluation batch."""

    kind: str
    step: int
    tensors: Batch
    bad: list[dict[str, Any]] = field(default_factory=list)


_END = object()
CLOSE_S = 60.0  # how long the end of a pipeline is waited for


class Feed:
    """Deliveries of a stream, in order; `wait_s` is the time that the loop has waited for them so far."""

    def __init__(self, stream: Iterator[Block], share: int, device: torch.device, ahead: int = 2) -> None:
        """Start the thread.

        Args:
            stream: blocks in planned order.
            share: rows of a step on this rank; blocks are joined until they are reached.
            ahead: deliveries that may wait on the device.
        """
        self._stream = stream
        self._share = share
        self._device = device
        self._ready: queue.Queue[Any] = queue.Queue(maxsize=ahead)
        self._closed = threading.Event()
        self.wait_s = 0.0
        self._next: Any = None
        self._thread = threading.Thread(target=self._fill, name="feed", daemon=True)
        self._thread.start()

    def arrives(self, within_s: float) -> bool:
        """Wait for the next delivery, but not for longer than that; whether it can be taken now."""
        if self._next is None:
            begin = time.perf_counter()
            with suppress(queue.Empty):
                self._next = self._ready.get(timeout=within_s)
            self.wait_s += time.perf_counter() - begin
        return self._next is not None

    def take(self, kind: str, step: int) -> Delivery:
        """The next delivery: this rank's rows of a step, or a batch of the evaluation after `step` steps.

        Raises:
            RuntimeError: something else comes next, or the stream has ended.
            Exception: whatever ended the stream.
        """
        while not self.arrives(CLOSE_S):
            continue
        found, self._next = self._next, None
        if isinstance(found, BaseException):
            raise found
        if found is _END or (found.kind, found.step) != (kind, step):
            other = "its end" if found is _END else f"{found.kind} of step {found.step}"
            raise RuntimeError(f"the stream gave {other} where {kind} of step {step} was due")
        return found

    def close(self) -> None:
        """End the thread and the pipeline behind it; a pipeline that cannot even start is left to its process."""
        self._closed.set()
        upto = time.monotonic() + CLOSE_S
        while self._thread.is_alive() and time.monotonic() < upto:
            try:
                self._ready.get_nowait()
            except queue.Empty:
                self._thread.join(timeout=0.05)

    def _fill(self) -> None:
        try:
            for delivery in self._deliveries():
                if not self._put(delivery):
                    return
            self._put(_END)
        except BaseException as error:  # whatever it is, the loop must hear of it
            self._put(error)
        finally:
            self._end_stream()

    def _end_stream(self) -> None:
        """End the pipeline from the thread that drives it, so that its decoders give their cores back."""
        end = getattr(self._stream, "close", None)
        if end is not None:
            with suppress(Exception):  # it may have failed before, and that was said
                end()

    def _put(self, value: Any) -> bool:
        while not self._closed.is_set():
            try:
                self._ready.put(value, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def _deliveries(self) -> Iterator[Delivery]:
        parts: list[Block] = []
        for block in self._stream:
            if self._closed.is_set():
                return
            parts.append(block)
            if block.entry.kind == EVALUATE or sum(part.entry.rows for part in parts) == self._share:
                yield self._joined(parts)
                parts = []

    def _joined(self, parts: list[Block]) -> Delivery:
        entry = parts[0].entry
        tensors = {}
        for name in parts[0].arrays:
            arrays = [part.arrays[name] for part in parts]
            rows, first = sum(map(len, arrays)), arrays[0]
            shape = tuple(np.max([array.shape[1:] for array in arrays], axis=0).tolist())
            # a copy in any case: blocks are read-only views into the object store
            dtype = torch.from_numpy(np.empty(0, first.dtype)).dtype
            host = torch.empty((rows, *shape), dtype=dtype, pin_memory=self._device.type == "cuda")
            join(arrays, host.numpy())
            tensors[name] = host.to(self._device, non_blocking=True)
        if self._device.type == "cuda":
            torch.cuda.current_stream().synchronize()
        return Delivery(entry.kind, entry.step, tensors, [row for part in parts for row in part.bad])


def join(arrays: Sequence[np.ndarray], out: np.ndarray) -> None:
    """Arrays one behind the other; those with shorter sides are filled with zeros at their ends, as systems pack rows.

    Args:
        out: (sum of the first axes, ...), its other sides the longest of each.
    """
    start = 0
    for array in arrays:
        place = out[start : start + len(array)]
        if array.shape != place.shape:
            place[...] = 0
        place[tuple(slice(side) for side in array.shape)] = array
        start += len(array)
