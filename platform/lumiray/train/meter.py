"""Counts what tensors hold and how much arithmetic is done, with real tensors and with fake ones alike."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Meter(TorchDispatchMode):
    """While inside, counts the bytes of new tensors that are alive, and floating-point operations.

    Args:
        known: tensors that are not counted.
    """

    def __init__(self, known: Iterator[Tensor]) -> None:
        super().__init__()
        self.held = self.most = self.flops = 0
        self._alive: dict[int, Any] = {one.untyped_storage()._cdata: None for one in known}

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), given: Any = None) -> Any:
        """Run the operation and look at what came out."""
        given = given or {}
        outcome = call(*args, **given)
        if call._overloadpacket in flop_registry:
            self.flops += flop_registry[call._overloadpacket](*args, **given, out_val=outcome)
        for one in tree_leaves(outcome):
            if isinstance(one, Tensor):
                self._count(one.untyped_storage())
        return outcome

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._alive:  # views share a storage
            self._alive[key] = weakref.ref(storage, lambda _: self._forget(key, size))
            self.held += size
            self.most = max(self.most, self.held)

    def _forget(self, key: int, size: int) -> None:
        del self._alive[key]
        self.held -= size
