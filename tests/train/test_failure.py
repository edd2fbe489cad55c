"""What the failure of a process of the cluster is said to mean."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from lumiray.train.failure import explained, lacking_module


def test_a_module_that_the_cluster_lacks_is_named_with_the_mend(ray_address: str) -> None:
    import ray

    class OnlyHere:
        def __reduce__(self) -> tuple[Any, ...]:
            return importlib.import_module, ("no_such_package",)

    @ray.remote(num_cpus=0)
    class Worker:
        def __init__(self, given: Any) -> None:
            self.given = given

        def ready(self) -> None:
            raise AssertionError("it cannot start")

    with pytest.raises(ray.exceptions.RayError) as raised:
        ray.get(Worker.remote(OnlyHere()).ready.remote())  # type: ignore[attr-defined]
    told = explained(raised.value, 1)
    assert told.startswith("Processes of the cluster cannot import no_such_package. Install its package on every node")
    assert lacking_module(ValueError("ModuleNotFoundError: No module named 'a'; it is done without")) is None
