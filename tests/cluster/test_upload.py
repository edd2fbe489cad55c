"""What `--working-dir .` uploads: the code, nothing else, and it is small."""

from __future__ import annotations

import logging
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from tests.house.sources import ROOT

MOST_BYTES = 3_000_000
NEEDED = {"platform", "models", "jobs"}
PLANTED = (".env", ".aws/credentials", "runs/a/checkpoints/x", ".venv/bin/python", "jobs/.secret", "demo/shard.tar")


@pytest.fixture(scope="module")
def uploaded(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The archive that Ray makes of a fresh checkout with some things beside it that must stay at home."""
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    tree, archive = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("upload") / "package.zip"
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    for name in PLANTED:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("secret")
    excluded = get_runtime_env_default_excludes()
    create_package(str(tree), archive, include_gitignore=True, excludes=excluded, logger=logging.getLogger("quiet"))
    return zipfile.ZipFile(archive)


def test_what_is_uploaded_is_small(uploaded: zipfile.ZipFile) -> None:
    size = sum(one.compress_size for one in uploaded.infolist())
    largest = sorted(uploaded.infolist(), key=lambda one: -one.compress_size)[:5]
    assert size < MOST_BYTES, [(one.filename, one.compress_size) for one in largest]


def test_all_of_the_code_is_in_it(uploaded: zipfile.ZipFile) -> None:
    names = set(uploaded.namelist())
    assert {name.split("/")[0] for name in names} >= NEEDED
    for folder in sorted(NEEDED):
        files = {one.relative_to(ROOT).as_posix() for one in (ROOT / folder).rglob("*.py")}
        assert not files - names


def test_nothing_hidden_built_or_made_by_runs_is_in_it(uploaded: zipfile.ZipFile) -> None:
    names = uploaded.namelist()
    assert [name for name in names if any(part.startswith(".") for part in Path(name).parts)] == []
    assert not set(PLANTED) & set(names)
    assert not {name.split("/")[0] for name in names} & {"tests", "docs", "benchmarks", "examples", "runs", "cluster"}


def test_jobs_stay_executable(uploaded: zipfile.ZipFile) -> None:
    jobs = [one for one in uploaded.infolist() if one.filename.startswith("jobs/") and one.filename.endswith(".py")]
    assert jobs
    for one in jobs:
        assert (one.external_attr >> 16) & 0o111, one.filename
        assert uploaded.read(one).startswith(b"#!/usr/bin/env python"), one.filename
