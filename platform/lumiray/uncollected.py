"""Making very many small records at once, without the collector of reference cycles.

Each thousand records lets it walk over what was made before, after some ten thousand over all that torch and Ray have
in memory: for a hundred thousand shards that takes as long as listing them.  Records of texts and numbers hold no
cycles.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def uncollected(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """A function that makes records and returns soon, during which the collector rests in this process."""

    @functools.wraps(function)
    def without(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        if not gc.isenabled():
            return function(*args, **kwargs)
        gc.disable()
        try:
            return function(*args, **kwargs)
        finally:
            gc.enable()

    return without
