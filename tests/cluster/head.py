"""A Ray head of its own with the dashboard and token authentication, as the cluster files start it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

START_S, END_S = 120.0, 60.0
SECRETS = {"AWS_SECRET_ACCESS_KEY": "planted-key-a", "WANDB_API_KEY": "planted-key-b"}  # of who submits
NODE_SECRETS = {"AWS_SESSION_TOKEN": "planted-key-c", "MLFLOW_TRACKING_PASSWORD": "planted-key-d"}  # of every node


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Head:
    """The head of a cluster of one node.

    Its processes find a `lumiray` that cannot be imported, so that a job works only with what was uploaded.

    Args:
        base: an empty folder; the home of who owns the cluster, with the token.
    """

    base: Path
    cores: int = 2
    gcs: int = field(default_factory=free_port)
    dashboard: int = field(default_factory=free_port)
    metrics: int = field(default_factory=free_port)
    client: int = field(default_factory=free_port)
    agent: int = field(default_factory=free_port)  # its usual port may be that of another cluster's on this machine
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it takes jobs."""
        decoy = self.base / "decoy" / "lumiray"
        decoy.mkdir(parents=True)
        (decoy / "__init__.py").write_text("raise ImportError('this node does not have the project')\n")
        self.ray("get-auth-token", "--generate")
        command = ["ray", "start", "--head", "--block", f"--port={self.gcs}", f"--num-cpus={self.cores}"]
        command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}"]
        command += [f"--metrics-export-port={self.metrics}", f"--ray-client-server-port={self.client}"]
        command += [f"--dashboard-agent-listen-port={self.agent}"]
        command += ["--node-ip-address=127.0.0.1", f"--temp-dir={self.base / 'ray'}"]
        extra = {"PYTHONPATH": str(decoy.parent), "RAY_JOB_STOP_WAIT_TIME_S": "120"}
        extra |= {"RAY_ADDRESS": f"127.0.0.1:{self.gcs}"}  # there may be other clusters on this machine
        extra |= {"RAY_metrics_report_interval_ms": "1000", **NODE_SECRETS}
        with (self.base / "head.log").open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=self.environment() | extra, cwd=self.base, start_new_session=True
            )
        begin = time.monotonic()
        while self.request("/api/jobs/")[0] != 200:
            assert self.process.poll() is None and time.monotonic() - begin < START_S, self.log()
            time.sleep(0.5)

    def end(self) -> None:
        """End every process that it has started."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(END_S)
        finally:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                self.process.wait(1)

    def log(self) -> str:
        return (self.base / "head.log").read_text(errors="replace")

    def environment(self, token: bool = True) -> dict[str, str]:
        """Of a process that has the token in its home, or of a stranger's, who has none."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        kept.pop("PYTHONPATH", None)
        home = self.base if token else self.base / "stranger"
        home.mkdir(exist_ok=True)
        mode = {"RAY_AUTH_MODE": "token"} if token else {"RAY_AUTH_MODE": "disabled"}
        return kept | mode | {"HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0"}

    def ray(self, *words: str, token: bool = True, timeout: float = 400.0, **extra: str) -> tuple[int, str]:
        """Run `ray WORDS` as a client: exit code and all that it printed."""
        done = subprocess.run(
            ["ray", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            env=self.environment(token) | extra,
        )
        return done.returncode, done.stdout

    @property
    def address(self) -> str:
        """Of the dashboard, where jobs are submitted."""
        return f"http://127.0.0.1:{self.dashboard}"

    def request(self, path: str, token: str | None = "own") -> tuple[int, str]:
        """Status and body of a request to the dashboard; 0 where nothing answers.

        Args:
            token: `own` takes the cluster's, None sends none.
        """
        if token == "own":
            file = self.base / ".ray" / "auth_token"
            token = file.read_text().strip() if file.exists() else None
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.address + path, headers=headers), timeout=20
            ) as got:
                return got.status, got.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")
        except OSError:
            return 0, ""

    def submit(self, name: str, folder: Path, *entrypoint: str) -> tuple[int, str]:
        """Submit a job from a folder without waiting for it; whoever does it has secrets in the environment."""
        words = ("job", "submit", "--address", self.address, "--submission-id", name, "--no-wait")
        begin = time.monotonic()
        while True:
            code, text = self.ray(*words, "--working-dir", str(folder), "--", *entrypoint, **SECRETS)
            if "No available agent" not in text or time.monotonic() - begin > START_S:  # it has just come up
                return code, text
            time.sleep(1)

    def job(self, name: str) -> dict[str, Any]:
        """What the dashboard knows about a job."""
        status, body = self.request(f"/api/jobs/{name}")
        assert status == 200, body
        found: dict[str, Any] = json.loads(body)
        return found

    def logs(self, name: str) -> str:
        """What a job has printed, as `ray job logs` shows it."""
        return str(json.loads(self.request(f"/api/jobs/{name}/logs")[1])["logs"])

    def until(self, name: str, states: Sequence[str], seconds: float = 300.0) -> dict[str, Any]:
        """Wait for a state of a job."""
        begin = time.monotonic()
        while (found := self.job(name))["status"] not in states:
            assert time.monotonic() - begin < seconds, self.logs(name)
            time.sleep(0.5)
        return found

    def scraped(self) -> dict[str, dict[str, float]]:
        """Samples of our own that the node's Prometheus endpoint serves: name -> labels -> value."""
        found: dict[str, dict[str, float]] = {}
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=20) as got:
            for line in got.read().decode().splitlines():
                if line.startswith("ray_lumiray_"):
                    name, _, rest = line.partition("{")
                    labels, _, value = rest.rpartition("} ")
                    found.setdefault(name, {})[labels] = float(value.split()[0])
        return found
