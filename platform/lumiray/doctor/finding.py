"""What one check of the doctor says: one line, with the mend."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from lumiray.errors import UserError

OK, NOTE, FAIL = "ok", "note", "FAIL"
SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN", "WANDB_API_KEY", "HF_TOKEN")


@dataclass(frozen=True)
class Finding:
    """What was checked, how it is, and what to do about it.

    Args:
        state: ok, note (works, with a limit) or FAIL.
        mend: what to do; empty where there is nothing to do, or where the words say it.
    """

    name: str
    state: str
    words: str
    mend: str = ""

    def __str__(self) -> str:
        line = f"{self.state:5s} {self.name:14s} {self.words}"
        return without_secrets(f"{line}  ->  {self.mend}" if self.mend else line)


def guarded(name: str, check: Callable[[], Finding], mend: str) -> Finding:
    """A check's finding; one that breaks is a finding, too.

    Args:
        mend: for errors that do not bring their own, as the user's mistakes do.
    """
    try:
        return check()
    except UserError as error:
        return Finding(name, FAIL, in_one_line(error))
    except Exception as error:  # whatever it is, the other checks still have something to say
        return Finding(name, FAIL, f"{type(error).__name__}: {in_one_line(error)}", mend)


def in_one_line(error: BaseException) -> str:
    """An error's message without line breaks, cut where it is long."""
    words = " ".join(str(error).split())
    return words if len(words) <= 500 else f"{words[:500]} ..."


def without_secrets(text: str) -> str:
    """Text without secrets of this process's environment, and without those that stand in addresses."""
    for value in filter(None, map(os.environ.get, SECRETS)):
        text = text.replace(value, "***")
    return re.sub(r"(\w+://)[^/\s@]+@", r"\1***@", text)
