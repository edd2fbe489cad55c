"""Checks of the places that a run reads and writes: shards, output, the disk beneath temporary files."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
import time
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from lumiray import s3
from lumiray.data.listing import find, split_patterns
from lumiray.doctor.finding import FAIL, NOTE, OK, Finding
from lumiray.errors import UserError
from lumiray.storage import (
    clear_errors,
    exists,
    is_s3,
    join,
    local_path,
    read_bytes,
    read_range,
    remove_tree,
    without_secrets,
    write_atomically,
)

DISK_BYTES, PROBE_BYTES = 128 << 20, 16 << 20
SLOW_DISK, SMALL_DISK = 100e6, 10e9  # bytes/s under which spilled pictures hold up training; bytes
ANSWER_S = 10.0


def disk() -> Finding:
    """Speed and room of the disk that holds temporary files: where pictures go that shared memory cannot hold."""
    block, folder = os.urandom(1 << 20), tempfile.gettempdir()
    with tempfile.TemporaryFile() as file:
        begin = time.perf_counter()
        for _ in range(DISK_BYTES >> 20):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        rate = DISK_BYTES / (time.perf_counter() - begin)
    free = shutil.disk_usage(folder).free
    words = f"{rate / 1e6:.0f} MB/s written and synced in {folder}, {free / 1e9:.0f} GB free"
    if rate < SLOW_DISK:
        return Finding("disk", NOTE, words, "set TMPDIR to a folder on a faster disk")
    if free < SMALL_DISK:
        return Finding("disk", NOTE, words, f"make room in {folder}, or set TMPDIR to a folder on a larger disk")
    return Finding("disk", OK, words)


def output_access(output: str) -> Finding:
    """A file can be written to the output, read back, and removed; nothing else is changed there."""
    check_answers(output)
    home = output if is_s3(output) else nearest_folder(local_path(output))
    if not is_s3(output) and not os.path.isdir(home):
        raise UserError(f"{home} is no folder, so a run cannot write into {output}: choose another --output.")
    place, data = join(home, f".lumiray-doctor-{secrets.token_hex(6)}"), secrets.token_bytes(PROBE_BYTES)
    begin = time.perf_counter()
    write_atomically(place, data)
    rate = PROBE_BYTES / (time.perf_counter() - begin)
    shown = without_secrets(output)
    try:
        same = read_bytes(place) == data
    finally:
        gone = removed(place)
    if not gone:
        words = f"{shown} can be written but nothing in it removed; {without_secrets(place)} stays"
        mend = "allow s3:DeleteObject" if is_s3(output) else "check the rights of the folder"
        return Finding("output", FAIL, words, f"{mend}: a run removes its old checkpoints")
    if not same:
        return Finding("output", FAIL, f"{shown} gives back other bytes than were written", "use another store")
    room = "" if is_s3(output) else f", {shutil.disk_usage(home).free / 1e9:.0f} GB free"
    new = "" if is_s3(output) or os.path.isdir(local_path(output)) else " (a new folder)"
    return Finding("output", OK, f"{shown}{new}: written at {rate / 1e6:.0f} MB/s, read back and removed{room}")


def removed(place: str) -> bool:
    """Remove a file; whether it is gone, for s3fs does not say what it may not remove."""
    try:
        remove_tree(place)
        return not exists(place)
    except UserError:
        return False


def nearest_folder(path: str) -> str:
    """The folder itself, or the nearest one above it that is there; a file in the way is given back."""
    path = os.path.abspath(path)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def shards_access(shards: str) -> Finding:
    """The shards are there and their first bytes can be read."""
    for pattern in split_patterns(shards):
        check_answers(pattern)
    begin = time.perf_counter()
    found = find(shards)
    took = time.perf_counter() - begin
    read_range(found[0].url, 0, min(512, found[0].size))
    size = sum(one.size for one in found) / 1e6
    return Finding("shards", OK, f"{len(found)} shard(s), {size:,.1f} MB together, listed in {took:.2f} s, readable")


def check_answers(url: str) -> None:
    """Ask an S3 address's server for a connection once; a real request would be repeated for minutes.

    Raises:
        UserError: it does not answer.
    """
    if not is_s3(url):
        return
    with clear_errors(url, "reach"):
        store = s3.client(url)
        store.connect()
        server = urlsplit(store.s3.meta.endpoint_url)
    host, port = server.hostname or "", server.port or (80 if server.scheme == "http" else 443)
    if server.scheme in getproxies() and not proxy_bypass(host):
        return
    try:
        socket.create_connection((host, port), ANSWER_S).close()
    except OSError as error:
        raise UserError(
            f"Cannot reach {without_secrets(url)}: {host}:{port} does not answer ({error.strerror or error}). "
            "Check the network, AWS_ENDPOINT_URL and AWS_REGION."
        ) from None
