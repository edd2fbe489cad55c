"""One Ray runtime and one S3 server for the whole session; jobs join them as separate processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
os.environ["PATH"] = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]  # ninja
os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}

TINY = json.dumps(
    {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 48, "head_width": 24, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
)


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """Address of a cluster of two cores that lives as long as the tests."""
    import ray

    context = ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="error")
    yield context.address_info["gcs_address"]
    ray.shutdown()


@pytest.fixture(scope="session")
def emoji_shards() -> Iterator[Path]:
    """300 emoji in three shards."""
    sys.path.insert(0, str(ROOT / "examples" / "emoji"))
    from rows import pictures

    from lumiray.data.write import make_shards

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        lines = ["filepath,title"]
        for number, (one, picture) in enumerate(pictures("noto")):
            if number == 300:
                break
            picture.save(base / f"{one.key}.png")
            lines.append(f'{one.key}.png,"{one.name}"')
        (base / "table.csv").write_text("\n".join(lines))
        make_shards(str(base / "table.csv"), str(base / "shards"), rows_per_shard=100)
        yield base / "shards"


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


@dataclass
class Job:
    """A job as a process, and what it left in its output."""

    output: str
    process: subprocess.Popen[str]

    def finish(self) -> tuple[int, str]:
        """Wait for the end: exit code and everything that was printed."""
        text, _ = self.process.communicate()
        return self.process.returncode, text

    def rows(self, kind: str = "train") -> dict[int, dict[str, float]]:
        """Logged rows by step."""
        file = Path(self.output) / "metrics.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return {row["step"]: row for row in rows if row["kind"] == kind}

    def until_step(self, step: int) -> None:
        """Return when a step is logged; fails if the job ends before."""
        while step not in self.rows():
            assert self.process.poll() is None, self.finish()[1]
            time.sleep(0.05)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the driver."""
        self.process.send_signal(number)


def start_job(name: str, output: str, *options: str, ray_address: str | None = None) -> Job:
    """Start jobs/NAME as a user would."""
    environment = os.environ | ({"RAY_ADDRESS": ray_address} if ray_address else {})
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, str(ROOT / "jobs" / name), *options]
    command += ["--output", output] if name != "clip_evaluate.py" else []
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment
    )
    return Job(output, process)
