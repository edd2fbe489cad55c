"""Strangers are refused everywhere, and no secret comes to lie where a run or Ray writes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from head import NODE_SECRETS, SECRETS, Head
from story import Told
from tests.house.sources import ROOT

pytestmark = pytest.mark.head

ALL_SECRETS = {**SECRETS, **NODE_SECRETS}


def holding(folder: Path, words: str) -> list[str]:
    """Files below a folder that contain some words."""
    found = []
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink() and words.encode() in file.read_bytes():
            found.append(file.relative_to(folder).as_posix())
    return found


@pytest.mark.parametrize("token", [None, "0" * 64])
def test_the_dashboard_answers_nobody_without_the_token(head: Head, token: str | None) -> None:
    for path in ("/api/jobs/", "/nodes?view=summary", "/api/v0/tasks", "/api/cluster_status"):
        status, _ = head.request(path, token=token)
        assert status in (401, 403), path
    assert head.request("/api/jobs/")[0] == 200


def test_a_job_of_a_stranger_is_refused(head: Head) -> None:
    words = ("job", "submit", "--address", head.address, "--submission-id", "stranger", "--no-wait", "--", "true")
    code, text = head.ray(*words, token=False)
    assert code != 0
    assert "token" in text.lower() or "401" in text
    assert head.request("/api/jobs/stranger")[0] == 404


def test_a_node_without_the_token_cannot_join(head: Head, tmp_path: Path) -> None:
    code, text = head.ray("start", f"--address=127.0.0.1:{head.gcs}", "--num-cpus=1", token=False, timeout=200)
    assert code != 0, text
    nodes = json.loads(head.request("/nodes?view=summary")[1])["data"]["summary"]
    assert len(nodes) == 1


@pytest.mark.parametrize("port", ["gcs", "client"])
def test_a_program_without_the_token_cannot_connect(head: Head, port: str) -> None:
    scheme = "ray://" if port == "client" else ""
    code = f"import ray; ray.init('{scheme}127.0.0.1:{getattr(head, port)}', logging_level='error'); print('connected')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        env=head.environment(token=False) | {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"},
    )
    assert done.returncode != 0
    assert "connected" not in done.stdout


def test_the_dashboard_listens_on_this_machine_alone(head: Head) -> None:
    found = (one for many in psutil.net_if_addrs().values() for one in many if one.family == socket.AF_INET)
    for address in {one.address for one in found if not one.address.startswith("127.")}:
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(f"http://{address}:{head.dashboard}/", timeout=5)


@pytest.mark.parametrize("secret", list(ALL_SECRETS.values()))
def test_no_secret_lies_in_what_a_run_leaves(told: Told, secret: str) -> None:
    assert list(told.output.rglob("*.safetensors"))
    assert holding(told.output, secret) == []


@pytest.mark.parametrize("secret", list(ALL_SECRETS.values()))
def test_no_secret_lies_in_what_ray_knows_of_a_job_or_logs(told: Told, head: Head, secret: str) -> None:
    for job, log, _ in (told.stopped, told.cut):
        assert secret not in json.dumps(job) and secret not in log
    assert holding(head.base / "ray", secret) == []


def test_the_token_lies_nowhere_but_in_its_file(told: Told, head: Head) -> None:
    token = (head.base / ".ray" / "auth_token").read_text().strip()
    assert len(token) >= 32
    assert holding(told.output, token) == []
    assert holding(head.base, token) == [".ray/auth_token"]
    assert token not in json.dumps(told.stopped[0]) + json.dumps(told.cut[0])


def test_the_tree_holds_no_token() -> None:
    assert not list(ROOT.glob("**/auth_token"))
