"""One driver at a time: a small file in a study's output says who drives it, and that it is alive.

It works wherever outputs do.  A driver that was killed on this host is known to be dead; of another host's it is
waited for whether it gives a sign of life.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from lumiray.errors import RunFailure, UserError
from lumiray.storage import NotThere, join, read_bytes, remove_tree, write_atomically

FILE = "driver.json"
BEAT_S = 5.0
SILENT_S = 20.0
"""A driver that gives no sign for so long is dead."""
SETTLE_S = 0.5
"""Of two that begin at the same moment the one whose file stands after this time goes on."""


@contextmanager
def lease(output: str) -> Iterator[None]:
    """Drive a study while inside.

    Raises:
        UserError: another driver does.
    """
    place = join(output, FILE)
    _wait_for_other(place)
    own = {"id": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
    write_atomically(place, json.dumps(own | {"beat": 0}).encode())
    time.sleep(SETTLE_S)
    if (found := _read(place)) is None or found["id"] != own["id"]:
        raise _refusal(place, found or own)
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(place, own, ended), name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if (found := _read(place)) is not None and found["id"] == own["id"]:
            remove_tree(place)


def _beat(place: str, own: dict[str, Any], ended: threading.Event) -> None:
    number = 0
    while not ended.wait(BEAT_S):
        number += 1
        with suppress(UserError, OSError):  # a store that does not answer now does so at the next beat
            write_atomically(place, json.dumps(own | {"beat": number}).encode())


def _wait_for_other(place: str) -> None:
    before = _read(place)
    if before is None or _is_dead_here(before):
        return
    if before["host"] == socket.gethostname():
        raise _refusal(place, before)
    print(f"waiting {SILENT_S:.0f} s for a sign of the driver on {before['host']} that this study had", flush=True)
    until = time.monotonic() + SILENT_S
    while time.monotonic() < until:
        time.sleep(1.0)
        if (now := _read(place)) is None:
            return
        if now != before:
            raise _refusal(place, now)


def _is_dead_here(other: dict[str, Any]) -> bool:
    return bool(other["host"] == socket.gethostname() and _started(int(other["pid"])) != other["started"])


def _started(pid: int) -> float | None:
    """When a process of this host began; None where there is none."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def _refusal(place: str, other: dict[str, Any]) -> UserError:
    return UserError(
        f"Another driver is at work on this study: process {other['pid']} on {other['host']}. Wait for it, stop it, or "
        f"choose another --output. (It says so in {place}.)"
    )


def _read(place: str) -> dict[str, Any] | None:
    try:
        found = json.loads(read_bytes(place))
        return {name: found[name] for name in ("id", "host", "pid", "started", "beat")}
    except NotThere:
        return None
    except (ValueError, LookupError, TypeError):
        raise RunFailure(
            f"{place} is not what a search leaves there; remove it if nothing drives this study."
        ) from None
