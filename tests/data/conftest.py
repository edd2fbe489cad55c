"""Shards and an S3 server for the tests of the data plane."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence

import pytest
import webdataset


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of moto's S3 server, running as a process of its own."""
    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{address}/moto-api/", timeout=5).close()
                break
            except OSError:
                if server.poll() is not None:
                    raise RuntimeError("moto's server ended at its start") from None
                time.sleep(0.1)
        yield address
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A new bucket: its s3:// address, with the environment that reaches it."""
    import boto3

    from lumiray import s3 as s3_client

    for name, value in {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "hush-hush",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    s3_client.forget_client()
    bucket = f"bucket-{os.getpid()}-{time.monotonic_ns()}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    yield f"s3://{bucket}"
    s3_client.forget_client()


Shards = Callable[..., list[str]]


@pytest.fixture
def shards_in() -> Shards:
    """Write shards of numbered rows into a folder or bucket: `shards_in(folder, [10, 5, 7])` -> addresses."""

    def write(folder: str, counts: Sequence[int], size: int = 300) -> list[str]:
        from lumiray import storage

        urls, ordinal = [], 0
        for number, count in enumerate(counts):
            buffer = io.BytesIO()
            with webdataset.TarWriter(buffer) as sink:
                for _ in range(count):
                    picture = ordinal.to_bytes(4, "big") * (size // 4 + ordinal % 97)
                    sink.write({"__key__": f"{number:03d}-{ordinal:05d}", "bin": picture, "txt": f"row {ordinal}"})
                    ordinal += 1
            urls.append(storage.join(folder, f"{number:05d}.tar"))
            storage.write_atomically(urls[-1], buffer.getvalue())
        return urls

    return write
