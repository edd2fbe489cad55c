"""What the doctor says of shards and output, on disk and on a real S3 server with rights of its own."""

from __future__ import annotations

import json
import os
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lumiray import s3 as s3_client
from lumiray import storage
from lumiray.doctor import places
from lumiray.doctor.finding import FAIL, NOTE, OK, guarded


def output_line(output: str) -> str:
    return str(guarded("output", lambda: places.output_access(output), "the mend"))


def shards_line(shards: str) -> str:
    return str(guarded("shards", lambda: places.shards_access(shards), "the mend"))


@contextmanager
def not_root() -> Iterator[None]:
    """Root may write anywhere; for a while this process is somebody else."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def everything_in(folder: Path) -> list[str]:
    return sorted(str(one.relative_to(folder)) for one in folder.rglob("*"))


def test_a_local_output_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    found = places.output_access(str(tmp_path / "runs"))
    assert found.state == OK
    assert "MB/s" in found.words and "GB free" in found.words and "new folder" not in found.words
    assert "(a new folder)" in places.output_access(str(tmp_path / "runs/a/b")).words
    assert everything_in(tmp_path) == ["runs"]


def test_an_output_without_rights_says_what_to_check() -> None:
    with not_root():
        line = output_line("/usr/lib/runs/a")
    assert line.startswith("FAIL")
    assert "Cannot write /usr/lib/.lumiray-doctor-" in line
    assert "no permission. Check the rights of the file and of its folder." in line


def test_an_output_below_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert f"{tmp_path}/file is no folder" in output_line(str(tmp_path / "file"))
    assert f"cannot write into {tmp_path}/file/run: choose another --output." in output_line(str(tmp_path / "file/run"))


def test_a_slow_disk_and_a_full_one_are_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "DISK_BYTES", 4 << 20)
    monkeypatch.setattr(places, "SLOW_DISK", 0.0)
    assert places.disk().state in (OK, NOTE)
    monkeypatch.setattr(places, "SMALL_DISK", 1e30)
    assert "larger disk" in places.disk().mend
    monkeypatch.setattr(places, "SLOW_DISK", 1e30)
    assert (places.disk().state, "faster disk" in places.disk().mend) == (NOTE, True)


def test_an_output_on_s3_is_tried_and_left_as_it_was(s3: str) -> None:
    storage.write_atomically(f"{s3}/runs/kept", b"x")
    found = places.output_access(f"{s3}/runs")
    assert (found.state, "read back and removed" in found.words) == (OK, True)
    assert [one.name for one in storage.list_entries(f"{s3}/runs")] == ["kept"]


def test_a_bucket_that_is_not_there_is_named_with_where_it_was_looked_for(s3: str) -> None:
    line = output_line("s3://no-such-bucket/runs")
    assert line.startswith("FAIL")
    assert "there is no bucket 'no-such-bucket' at http://127.0.0.1" in line
    assert "no-such-bucket" in shards_line("s3://no-such-bucket/set/{00000..00009}.tar")


def test_a_server_that_does_not_answer_is_said_at_once(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        port = taken.getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        s3_client.forget_client()
        for line in (output_line(f"{s3}/runs"), shards_line(f"{s3}/set")):
            assert f"Cannot reach {s3}/" in line
            assert f"127.0.0.1:{port} does not answer (Connection refused). Check the network, AWS_ENDPOINT_URL" in line


def test_credentials_in_an_address_are_refused_and_not_shown() -> None:
    for line in (output_line("s3://KEY:hush@bucket/runs"), shards_line("s3://KEY:hush@bucket/set")):
        assert line.startswith("FAIL")
        assert "leave them out of the address and set AWS_ACCESS_KEY_ID" in line
        assert "KEY:" not in line and "hush" not in line


def test_missing_credentials_are_said_with_the_mend(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    s3_client.forget_client()
    assert "no S3 credentials found. Set AWS_ACCESS_KEY_ID" in output_line(f"{s3}/runs")


@contextmanager
def user_who_may(endpoint: str, actions: list[str]) -> Iterator[None]:
    """While inside, the server asks for rights, and this process has these only."""
    import boto3

    iam, name = boto3.client("iam"), f"user-{len(actions)}-{actions[0].rpartition(':')[2]}"
    iam.create_user(UserName=name)
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
    iam.put_user_policy(UserName=name, PolicyName="rights", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=name)["AccessKey"]

    def unasked_requests(count: str) -> None:
        headers = {"Content-Type": "text/plain"}
        urllib.request.urlopen(
            urllib.request.Request(f"{endpoint}/moto-api/reset-auth", count.encode(), headers)
        ).close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        s3_client.forget_client()
        unasked_requests("0")
        try:
            yield
        finally:
            unasked_requests("inf")
            s3_client.forget_client()


def test_a_bucket_that_may_be_read_only_holds_no_output(s3: str, s3_endpoint: str) -> None:
    storage.write_atomically(f"{s3}/set/00000.tar", bytes(1024))
    with user_who_may(s3_endpoint, ["s3:GetObject", "s3:ListBucket"]):
        assert "1 shard(s)" in shards_line(f"{s3}/set")
        line = output_line(f"{s3}/runs")
    assert line.startswith("FAIL")
    assert "Cannot write s3://" in line and "no permission. Check the credentials" in line and "bucket's policy" in line


def test_an_output_from_which_nothing_can_be_removed_is_no_output(s3: str, s3_endpoint: str) -> None:
    import boto3

    bucket = s3.removeprefix("s3://")
    denied = {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject", "Resource": f"arn:aws:s3:::{bucket}/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [denied]})
    boto3.client("s3").put_bucket_policy(Bucket=bucket, Policy=policy)
    with user_who_may(s3_endpoint, ["s3:PutObject", "s3:GetObject", "s3:ListBucket"]):
        line = output_line(f"{s3}/runs")
    assert line.startswith("FAIL")
    assert "nothing in it removed" in line and "allow s3:DeleteObject" in line


def test_shards_are_counted_and_a_missing_one_is_named(emoji_shards: Path) -> None:
    found = places.shards_access(str(emoji_shards))
    assert found.state == OK
    assert found.words.startswith("3 shard(s), ")
    line = shards_line(f"{emoji_shards}/{{00000..00004}}.tar")
    assert line.startswith(FAIL)
    assert "2 of the 5 shards" in line and "00003.tar" in line
    assert "There is no shard /nowhere" in shards_line("/nowhere")
