"""Notice of a host that is about to be taken away, from a metadata service like that of AWS."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.conftest import TINY, start_job

from lumiray.train import notice
from lumiray.train.manifest import complete
from lumiray.train.notice import ADDRESS, Notice, announced

TOKEN, ACTION = "/latest/api/token", "/latest/meta-data/spot/instance-action"


class Metadata(ThreadingHTTPServer):
    """Answers as IMDSv2 does: only who shows a session token, and 404 while nothing is announced."""

    action: bytes | None = None
    asked = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Metadata

    def do_PUT(self) -> None:
        good = self.path == TOKEN and "X-aws-ec2-metadata-token-ttl-seconds" in self.headers
        self.reply(200 if good else 400, b"session")

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.headers.get("X-aws-ec2-metadata-token") != "session":
            self.reply(401, b"")
        elif self.path == ACTION and self.server.action:
            self.reply(200, self.server.action)
        else:
            self.reply(404, b"")

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    server = Metadata()
    yield server
    server.shutdown()
    server.server_close()


def test_nothing_is_announced_until_it_is(metadata: Metadata) -> None:
    assert not announced(metadata.url)
    assert metadata.asked == 1
    metadata.action = b'{"action": "terminate", "time": "2030-01-01T00:00:00Z"}'
    assert announced(metadata.url)


def test_a_service_that_is_away_announces_nothing() -> None:
    assert not announced("http://127.0.0.1:9")


def test_a_worker_hears_of_it_without_waiting(metadata: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notice, "EVERY_S", 0.05)
    heard = Notice(metadata.url, lambda: False, asks=False)
    assert not heard.heard()
    metadata.action = b"{}"
    begin = time.monotonic()
    while not heard.heard():
        assert time.monotonic() - begin < 10
        time.sleep(0.01)
    assert not heard.due()
    heard.close()


def test_only_one_rank_says_when_ray_is_asked_and_not_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notice, "EVERY_S", 0.05)
    one, other = (Notice(None, lambda: True, asks=asks) for asks in (True, False))
    assert not one.due()
    time.sleep(0.06)
    assert one.due() and not other.due()
    assert one.drained()
    assert not one.due()


@pytest.mark.slow
def test_a_job_on_an_instance_that_is_taken_away_has_a_checkpoint_before(
    metadata: Metadata, tmp_path: Path, emoji_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ADDRESS, metadata.url)  # of the Ray that the job starts for itself
    options = ("--shards", str(emoji_shards), "--model", TINY, "--global-batch-size", "32", "--steps", "5000")
    options += ("--warmup", "6", "--log.every", "1", "--checkpoint.every", "100000")
    job = start_job("clip_pretrain.py", str(tmp_path), *options)
    try:
        job.until_step(2)
        assert list(complete(str(tmp_path))) == []
        metadata.action = b'{"action": "terminate", "time": "2030-01-01T00:00:00Z"}'
        begin = time.monotonic()
        while not (found := list(complete(str(tmp_path)))):
            assert job.process.poll() is None and time.monotonic() - begin < 60
            time.sleep(0.1)
        job.until_step(found[0].step + 2)  # it goes on until the host is gone
    finally:
        job.process.terminate()
        code, text = job.finish()
    assert code == 75, text
    assert "a host is about to be taken away" in text
