"""The S3 client of this process, and requests that are asked again while their failures look as if they would pass.

Credentials, region and endpoint come from where the AWS tools look for them (environment, shared files, instance
role; AWS_ENDPOINT_URL for other servers).
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from lumiray.errors import UserError
from lumiray.storage_errors import TooShort, clear_errors, code_of, is_passing, without_secrets

_ATTEMPTS = 6
_LONGEST_PAUSE_S = 8.0
_ABSENT = 4  # an object that should be there is asked for again so often: for two seconds or so
_T = TypeVar("_T")


def client(url: str) -> Any:
    """The s3fs file system of this process.

    Raises:
        UserError: the address carries credentials.
    """
    if "@" in bucket_of(url):
        raise UserError(
            f"{without_secrets(url)} was given with credentials inside: leave them out of the address and set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
        )
    return _client_of(os.getpid())


@lru_cache(maxsize=1)
def _client_of(process: int) -> Any:
    """One per process: connections do not survive a fork."""
    import s3fs

    # listings are not cached: a shard that was added or replaced must be seen.  s3fs asks five times and botocore
    # three times for each of these, within about ten seconds; six attempts of ours on top outlast a minute
    retries = {"mode": "standard", "total_max_attempts": 3}
    return s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True, config_kwargs={"retries": retries})


def forget_client() -> None:
    """Make the next request read credentials and endpoint anew."""
    _client_of.cache_clear()


def path_of(url: str) -> str:
    """BUCKET/KEY of an address."""
    return url.removeprefix("s3://").rstrip("/")


def bucket_of(url: str) -> str:
    """The bucket of an address."""
    return path_of(url).split("/")[0]


def retried(action: Callable[[], _T]) -> _T:
    """Do something again, with growing pauses, while its failures look as if they would pass."""
    for attempt in range(1, _ATTEMPTS):
        try:
            return action()
        except Exception as error:
            if not is_passing(error):
                raise
            _pause(attempt)
    return action()


def until_there(action: Callable[[], _T]) -> _T:
    """As `retried`, for an object that should be there: some stores name one in listings before they hand it out."""
    for attempt in range(_ABSENT):
        try:
            return retried(action)
        except FileNotFoundError as error:
            if not _may_come(error):
                raise
            _pause(attempt)
    return retried(action)


def ranges(asked: Sequence[tuple[str, int, int]]) -> list[bytes]:
    """(url, start, length) ranges of objects that should be there, in parallel; those that failed are asked again.

    Raises:
        NoAccess, TooShort: at once, or after the last attempt.  NotThere: as `until_there`.  Unreachable: after the
            last attempt.
    """
    pieces: dict[int, bytes] = {number: b"" for number, (_, _, length) in enumerate(asked) if not length}
    waiting = [number for number in range(len(asked)) if number not in pieces]
    failures: dict[int, Any] = {}
    for attempt in range(_ATTEMPTS):
        if not waiting:
            break
        if attempt:
            _pause(attempt - 1 if all(map(_may_come, failures.values())) else attempt)
        failures = {}
        for number, answer in zip(waiting, _ask([asked[number] for number in waiting]), strict=True):
            url, start, length = asked[number]
            if isinstance(answer, bytes) and len(answer) == length:
                pieces[number] = answer
                continue
            failures[number] = answer
            absent = _may_come(answer) and attempt < _ABSENT
            if not absent and not _is_passing(answer, url, start + length):
                _raise(answer, url, start, length)
        waiting = list(failures)
    if waiting:
        _raise(failures[waiting[0]], *asked[waiting[0]])
    return [pieces[number] for number in range(len(asked))]


def _ask(asked: Sequence[tuple[str, int, int]]) -> list[Any]:
    """Answers or exceptions, one for each range."""
    answers: list[Any] = client(asked[0][0]).cat_ranges(
        [url for url, _, _ in asked],
        [start for _, start, _ in asked],
        [start + length for _, start, length in asked],
        on_error="return",
    )
    return answers


def _may_come(answer: Any) -> bool:
    return isinstance(answer, FileNotFoundError) and code_of(answer) != "NoSuchBucket"


def _is_passing(answer: Any, url: str, stop: int) -> bool:
    """Whether another attempt may bring what an answer lacks; `stop` is the first byte that is not wanted."""
    if isinstance(answer, Exception):
        return is_passing(answer)
    with clear_errors(url, "look at"):  # was the answer cut off, or is the object so short?
        return bool(until_there(lambda: client(url).info(url))["size"] >= stop)


def _raise(answer: Any, url: str, start: int, length: int) -> None:
    if isinstance(answer, Exception) and code_of(answer) != "InvalidRange":
        with clear_errors(url, "read"):
            raise answer
    got = len(answer) if isinstance(answer, bytes) else 0
    raise too_short(url, start, length, got)


def too_short(url: str, start: int, length: int, got: int) -> TooShort:
    """The error for a range that is not all there."""
    return TooShort(
        f"{without_secrets(url)} ends too early: {length} bytes at offset {start} were wanted, {got} came. "
        "It is truncated, or was replaced since it was listed."
    )


def _pause(attempt: int) -> None:
    time.sleep(min(_LONGEST_PAUSE_S, 0.2 * 2**attempt) * random.uniform(0.5, 1.0))
