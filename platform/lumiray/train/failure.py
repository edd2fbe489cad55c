"""What the failure of a worker means to the user: one message, with what mends it.

Errors arrive wrapped: a Ray task's in another, a worker's in its group's.  What they wrap is looked through for
a user's mistake, for memory that ran out, for a module that the cluster lacks, and for workers that were killed and
could say nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lumiray.errors import Interrupted, RunFailure, UserError

OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError", "_ArrayMemoryError")  # of torch and Ray, Python, NumPy
MEMORY_WORDS = (
    "can't allocate memory",  # torch on the CPU
    "not enough memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "running low on memory",  # Ray, which kills what takes most
)
LACKING = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'\Z")  # Ray quotes a traceback to its end
KILLED = ("ActorDiedError", "WorkerCrashedError", "NodeDiedError")
RAY_DATA_ADDS = "\nFailed to apply UDF transform"  # to the message of whatever a decoder raises
STAYS = "What is committed in {} stays as it is; the same command continues from it."
MEND = (
    "Lower --micro-batch-size (the global batch stays; --accept-changes micro_batch_size continues this run), turn on "
    "--grad-checkpointing, raise --zero, or give every worker more memory; --dry-run says what a worker needs."
)


def behind(error: BaseException) -> Iterator[BaseException]:
    """An error and all that it wraps or was raised from, the outermost first."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        one = waiting.pop(0)
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [getattr(one, name, None) for name in ("cause", "health_check_failure", "controller_failure")]
        waiting.append(one.__cause__)
        waiting += dict(getattr(one, "worker_failures", None) or {}).values()


def user_error_behind(error: BaseException) -> UserError | None:
    """The user's mistake that an error is, or that it wraps: Ray's tasks raise both in one, traceback and all.

    What was wrapped was found on the way: it is a `RunFailure`, whatever it was.
    """
    for one in behind(error):
        if isinstance(one, UserError) and not isinstance(one, Interrupted) and not hasattr(one, "cause"):
            return one if one is error else RunFailure(str(one).partition(RAY_DATA_ADDS)[0])
    return None


def out_of_memory(error: BaseException) -> RunFailure | None:
    """What to say where memory ran out, if it did."""
    found = [one for one in behind(error) if type(one).__name__ in OUT_OF_MEMORY or _says_so(str(one))]
    if not found:
        return None
    inmost = found[-1]  # those around it repeat its words after others
    where = "".join(f", {note}" for note in getattr(inmost, "__notes__", ()))
    lines = [line.strip() for line in str(inmost).splitlines() if line.strip()]
    line = next(filter(_says_so, lines), lines[0] if lines else type(inmost).__name__)
    return RunFailure(f"Memory ran out{where}: {line[:300]}\n{MEND}")


def _says_so(text: str) -> bool:
    return any(words in text for words in MEMORY_WORDS)


def lacking_module(error: BaseException) -> RunFailure | None:
    """What to say where a process of the cluster could not import what there is here, such as a system's package."""
    for one in behind(error):
        found = LACKING.search(str(one).rstrip())
        if found:
            return RunFailure(
                f"Processes of the cluster cannot import {found[1]}. Install its package on every node, or start the "
                "nodes with its folder in PYTHONPATH."
            )
    return None


def explained(error: BaseException, attempts: int) -> str:
    """Why a group of workers failed at last, after so many attempts."""
    known = out_of_memory(error) or lacking_module(error)
    if known is not None:
        return str(known)
    failures = dict(getattr(error, "worker_failures", None) or {})
    killed = [rank for rank, one in failures.items() if any(type(e).__name__ in KILLED for e in behind(one))]
    if killed:
        names = ", ".join(map(str, sorted(killed)))
        return (
            f"Worker {names} was killed from outside, without a word, in attempt {attempts}. Most often its machine "
            f"had no memory left and the kernel chose it (dmesg says so there). If so: {MEND[0].lower()}{MEND[1:]}"
        )
    return f"Training failed in attempt {attempts}: {error}"
