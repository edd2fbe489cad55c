"""Errors that reach the user, and the exit codes of every job.

A user's mistake gets one clear message without a stack trace: the message itself says what is wrong,
where, and what mends it.  Whatever else escapes is our own failure and keeps its trace.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable

EXIT_DONE = 0
EXIT_FAILURE = 1
EXIT_BAD_USE = 2
EXIT_INTERRUPTED = 75  # sysexits.h EX_TEMPFAIL: the same command line continues from a checkpoint


class UserError(Exception):
    """Something the user can mend; the message is shown alone and the job ends with `exit_code`."""

    exit_code = EXIT_BAD_USE


class RunFailure(UserError):
    """A run that cannot go on for a reason found on the way (exit code 1): bad data, lost storage, NaN."""

    exit_code = EXIT_FAILURE


class Interrupted(UserError):
    """A run that was told to stop and left a checkpoint (exit code 75)."""

    exit_code = EXIT_INTERRUPTED


def near(word: str, known: Iterable[str], most: int = 4) -> str:
    """A sentence with the known words nearest to a misspelt one, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=most, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(name) for name in close)}?" if close else ""


def check_number(option: str, value: float | None, least: float, most: float = math.inf) -> None:
    """Refuse a number outside [least, most]; None is a value that was not given.

    Args:
        option: as on the command line, without the dashes.

    Raises:
        UserError: names the option, its value, and what is allowed.
    """
    if value is not None and not least <= value <= most:
        allowed = f"at least {least:g}" if most == math.inf else f"between {least:g} and {most:g}"
        raise UserError(f"--{option} is {value}; it must be {allowed}.")
