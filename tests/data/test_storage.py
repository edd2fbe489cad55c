"""One set of functions for local files and S3: whole writes, ranges, and errors that name the mend."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lumiray import s3 as s3_client
from lumiray import storage
from lumiray.errors import UserError


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("s3")


def test_written_files_are_listed_read_and_removed(folder: str) -> None:
    data = bytes(range(256)) * 100
    url = storage.join(folder, "deep", "file.bin")
    storage.write_atomically(url, data)
    storage.write_atomically(storage.join(folder, "deep", "folder", "other.txt"), b"x")
    assert storage.exists(url) and not storage.exists(url + "2")
    assert storage.list_names(storage.join(folder, "deep")) == ["file.bin", "folder"]
    assert [e.folder for e in storage.list_entries(storage.join(folder, "deep"))] == [False, True]
    assert [e.name for e in storage.list_entries(storage.join(folder, "deep"), prefix="fi")] == ["file.bin"]
    assert storage.list_names(storage.join(folder, "none")) == []
    assert storage.entry(url).size == len(data)
    assert storage.read_bytes(url) == data
    assert storage.read_range(url, 300, 1000) == data[300:1300]
    assert storage.read_ranges(url, [(0, 5), (7, 0), (100, 9)]) == [data[:5], b"", data[100:109]]
    with storage.open_url(url) as file:
        file.seek(10)
        assert file.read(4) == data[10:14]
    with storage.open_url(storage.join(folder, "new", "text.txt"), "w") as file:
        file.write("gr\u00fc\u00df")
    assert storage.read_bytes(storage.join(folder, "new", "text.txt")).decode() == "gr\u00fc\u00df"
    storage.remove_tree(storage.join(folder, "deep"))
    assert storage.list_names(storage.join(folder, "deep")) == []
    storage.remove_tree(storage.join(folder, "deep"))


def test_the_mark_changes_with_the_content(folder: str) -> None:
    url = storage.join(folder, "a")
    storage.write_atomically(url, b"one")
    before = storage.entry(url)
    assert storage.list_entries(folder) == [before]
    storage.write_atomically(url, b"two")
    assert storage.entry(url).mark != before.mark


def test_a_range_past_the_end_is_an_error_that_names_file_and_offset(folder: str) -> None:
    url = storage.join(folder, "short")
    storage.write_atomically(url, b"0123456789")
    with pytest.raises(UserError, match=r"short ends too early: 10 bytes at offset 5"):
        storage.read_range(url, 5, 10)


def test_what_is_not_there_is_named(folder: str) -> None:
    for action in (storage.read_bytes, storage.entry, lambda url: storage.read_range(url, 0, 3)):
        with pytest.raises(storage.NotThere, match="nothing: it is not there"):
            action(storage.join(folder, "nothing"))


def test_an_interrupted_write_leaves_the_old_file_and_no_remains(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    storage.write_atomically(path, b"old")

    def interrupted() -> None:
        with storage.whole_file(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert Path(path).read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_an_absent_bucket_is_named(s3: str) -> None:
    with pytest.raises(storage.NotThere, match=r"no bucket 'no-such-bucket'.*AWS_ENDPOINT_URL"):
        storage.list_names("s3://no-such-bucket/folder")
    with pytest.raises(storage.NotThere, match="no-such-bucket"):
        storage.write_atomically("s3://no-such-bucket/file", b"x")


def test_a_whole_bucket_is_never_removed(s3: str) -> None:
    storage.write_atomically(s3 + "/a", b"x")
    with pytest.raises(UserError, match="whole bucket"):
        storage.remove_tree(s3)
    assert storage.exists(s3 + "/a")


def test_an_endpoint_that_is_down_is_named_after_several_attempts(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(s3_client, "_ATTEMPTS", 2)
    s3_client.forget_client()
    s3_client.client(s3).retries = 1  # s3fs's own
    with pytest.raises(storage.Unreachable, match=r"Cannot read s3://.*127\.0\.0\.1:9 does not answer"):
        storage.read_bytes(s3 + "/a")


def test_missing_credentials_are_said(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    s3_client.forget_client()
    with pytest.raises(storage.NoAccess, match="no S3 credentials found"):
        storage.list_names(s3)


def test_secrets_in_an_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(UserError) as caught:
        storage.read_bytes("s3://AKIAXYZ:hush-hush@bucket/file")
    assert "hush" not in str(caught.value) and "AKIAXYZ" not in str(caught.value)


def test_other_schemes_are_refused() -> None:
    for url in ("pipe:cat /etc/passwd", "http://host/file", "gopen://x"):
        with pytest.raises(UserError, match="local path or an s3://"):
            storage.read_bytes(url)


def test_joining_and_taking_apart() -> None:
    assert storage.join("/", "a") == "/a"
    assert storage.join("s3://bucket/", "a", "b.tar") == "s3://bucket/a/b.tar"
    assert storage.parent("s3://bucket/a/b.tar") == "s3://bucket/a"
    assert storage.parent("b.tar") == "."
    assert storage.base_name("s3://bucket/a/b.tar") == "b.tar"
