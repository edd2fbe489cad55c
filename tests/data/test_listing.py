"""Every form in which shards can be named, on disk and on S3, and what is said when they are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumiray import s3 as s3_client
from lumiray import storage
from lumiray.data.listing import expand, find
from lumiray.errors import UserError


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    root = str(tmp_path) if request.param == "local" else request.getfixturevalue("s3")
    for name in ("a/00000", "a/00001", "a/00002", "a/00010", "b/00000", "c/x-1", "c/x-2"):
        storage.write_atomically(f"{root}/{name}.tar", name.encode())
    storage.write_atomically(f"{root}/a/sizes.json", b"{}")
    storage.write_atomically(f"{root}/a/.hidden.tar", b"")
    storage.write_atomically(f"{root}/a/deep/00003.tar", b"")
    storage.write_atomically(f"{root}/d/readme.txt", b"")
    return root


def short(folder: str, pattern: str | list[str]) -> list[str]:
    one = pattern.replace("@", folder) if isinstance(pattern, str) else [p.replace("@", folder) for p in pattern]
    return [url.removeprefix(f"{folder}/").removesuffix(".tar") for url in expand(one)]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("@/a", "a/00000 a/00001 a/00002 a/00010"),
        ("@/a/", "a/00000 a/00001 a/00002 a/00010"),
        ("@/a/00001.tar", "a/00001"),
        ("@/a/{00000..00002}.tar", "a/00000 a/00001 a/00002"),
        ("@/a/{00002..00000..2}.tar", "a/00002 a/00000"),
        ("@/{a,b}/00000.tar", "a/00000 b/00000"),
        ("@/{a/{00001,00010},c/x-{1..2}}.tar", "a/00001 a/00010 c/x-1 c/x-2"),
        ("@/a/*.tar", "a/00000 a/00001 a/00002 a/00010"),
        ("@/a/*", "a/00000 a/00001 a/00002 a/00010"),
        ("@/a/0000[12].tar", "a/00001 a/00002"),
        ("@/?/00000.tar", "a/00000 b/00000"),
        ("@/*/x-*.tar", "c/x-1 c/x-2"),
        ("@/{a,b}", "a/00000 a/00001 a/00002 a/00010 b/00000"),
        ("@/b,@/c", "b/00000 c/x-1 c/x-2"),
        ("@/c::@/b/*.tar", "c/x-1 c/x-2 b/00000"),
        (["@/b", "@/a/{00000,00001}.tar,@/c"], "b/00000 a/00000 a/00001 c/x-1 c/x-2"),
        ("@/b::@/b/00000.tar", "b/00000"),
    ],
)
def test_forms(folder: str, pattern: str | list[str], found: str) -> None:
    assert short(folder, pattern) == found.split()


def test_sizes_and_marks_come_along(folder: str) -> None:
    listed = find(f"{folder}/a/*.tar")
    assert [each.size for each in listed] == [7] * 4
    assert [each.mark for each in listed] == [storage.entry(each.url).mark for each in listed]
    assert find(f"{folder}/a") == listed == find(f"{folder}/a/{{00000,00001,00002,00010}}.tar")


def test_missing_shards_are_counted_and_the_first_are_named(folder: str) -> None:
    with pytest.raises(UserError, match=r"2 of the 3 shards .* missing: .*00003\.tar, .*00004\.tar\. Fetch"):
        expand(f"{folder}/a/{{00002..00004}}.tar")
    with pytest.raises(UserError, match=r"96 of the 100 shards .* missing: .*00003.*00004.*00005\.tar, \.\.\."):
        expand(f"{folder}/a/{{00000..00099}}.tar")


def test_a_single_missing_shard_suggests_near_names(folder: str) -> None:
    with pytest.raises(UserError, match=r"no shard .*00003\.tar.*Did you mean .*00000\.tar"):
        expand(f"{folder}/a/00003.tar")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", "pattern is empty"),
        (" , ::", "pattern is empty"),
        ("@/a/*.zip", "No shards match"),
        ("@/none/*.tar", "No shards match"),
        ("@/d", "holds no .tar file"),
        ("@/none", "no shard .*none"),
        ("@/a/{00000..00002.tar", "braces .* do not close"),
        ("pipe:cat x.tar", "pipe: addresses run commands"),
        ("@/a/00000.tar::pipe:rm -rf x", "pipe: addresses run commands"),
        ("https://host/00000.tar", "'https' are not read"),
        ("gs://bucket/x.tar", "'gs' are not read"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(folder: str, pattern: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        expand(pattern.replace("@", folder))


def test_a_name_with_glob_characters_is_found_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "set[1].tar").write_bytes(b"")
    with pytest.raises(UserError, match="No shards match"):
        expand(str(tmp_path / "set[1].tar"))  # a pattern, as in every shell
    assert len(expand(str(tmp_path))) == 1


def test_many_shards_cost_listings_not_one_request_each(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(60):
        storage.write_atomically(f"{s3}/many/{number:05d}.tar", b"")
    calls: list[str] = []
    store = s3_client.client("s3://x")
    store.s3.meta.events.register("before-call.s3", lambda model, **_: calls.append(model.name))
    assert len(expand(f"{s3}/many/{{00000..00059}}.tar")) == 60
    assert len(calls) <= 2, calls


def test_an_absent_bucket_is_named(s3: str) -> None:
    for pattern in (
        "s3://no-such-bucket/set/{00000..00009}.tar",
        "s3://no-such-bucket/set",
        "s3://no-such-bucket/*.tar",
    ):
        with pytest.raises(UserError, match="no bucket 'no-such-bucket'"):
            expand(pattern)
