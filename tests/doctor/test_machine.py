"""What the doctor says of one machine: packages, compiler, shared memory; and that no secret stands in it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from pathlib import Path

import pytest

from lumiray.doctor import machine
from lumiray.doctor.finding import FAIL, NOTE, OK, Finding, guarded
from lumiray.errors import UserError


@pytest.fixture
def path_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Give the process a path on which there are these programs only."""

    def put(*programs: str) -> Path:
        for name in programs:
            (tmp_path / name).symlink_to(str(shutil.which(name)))
        monkeypatch.setenv("PATH", str(tmp_path))
        return tmp_path

    monkeypatch.delenv("CXX", raising=False)
    return put


def test_the_environment_of_the_tests_has_every_version() -> None:
    found = machine.versions()
    assert found.state == OK
    for name in ("python 3.", "ray 2.", "torch 2.", "deepspeed 0.", "open_clip_torch 3."):
        assert name in found.words


def test_a_missing_and_an_old_package_are_named_with_what_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=999", "no-such-package>=1", 'tomli>=1; python_version < "3.0"', "torch>=2"]
    monkeypatch.setattr(machine, "requirements", lambda: wanted)
    found = machine.versions()
    assert found.state == FAIL
    assert f"numpy is {importlib.metadata.version('numpy')}, wanted >=999" in found.words
    assert "no-such-package is missing" in found.words
    assert "tomli" not in found.words and "torch" not in found.words
    assert "make env" in found.mend


def test_dependencies_are_known_with_and_without_an_installation() -> None:
    from packaging.requirements import Requirement

    named = {Requirement(one).name for one in machine.requirements()}
    assert {"ray", "torch", "deepspeed"} <= named
    installed = [Requirement(one) for one in importlib.metadata.requires("lumiray") or ()]
    assert {"ray", "torch", "deepspeed"} <= {one.name for one in installed if not one.marker}


def test_the_compiler_is_tried_and_not_only_looked_for(path_with, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.compiler().state == OK
    liar = path_with("ninja") / "liar"
    liar.write_text("#!/bin/sh\necho 'fatal error: Python.h: No such file' >&2\nexit 1\n")
    liar.chmod(0o755)
    monkeypatch.setenv("CXX", str(liar))
    found = machine.compiler()
    assert found.state == NOTE
    assert "fatal error: Python.h" in found.words
    assert found.mend == "apt-get install python3-dev"


def test_a_missing_compiler_comes_with_its_mend(path_with) -> None:
    path_with("ninja")
    found = machine.compiler()
    assert (found.state, found.mend) == (NOTE, "apt-get install g++")  # training itself builds nothing
    assert found.words.startswith("there is no c++ on the path; only --engine.offload-optimizer and")


def test_ninja_in_an_environment_that_is_not_activated_is_found(path_with) -> None:
    path_with("c++")
    found = machine.compiler()
    assert found.state == NOTE
    assert found.mend == f"export PATH={Path(sys.executable).parent}:$PATH"


def test_little_shared_memory_is_a_note_with_the_containers_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "GIB", 1 << 60)  # nothing has so much
    found = machine.shared_memory()
    assert (found.state, "--shm-size" in found.mend) == (NOTE, True)
    monkeypatch.setattr(machine, "SHARED_MEMORY", "/nowhere")
    assert machine.shared_memory().state == NOTE


def test_a_check_that_breaks_is_a_line_with_a_mend_and_a_mistake_of_the_user_brings_its_own() -> None:
    def mistaken() -> Finding:
        raise UserError("Cannot read it.\nCheck the address.")

    def broken() -> Finding:
        raise OSError(28, "No space left on device")

    assert str(guarded("disk", mistaken, "unused")) == "FAIL  disk           Cannot read it. Check the address."
    assert str(guarded("disk", broken, "make room")) == (
        "FAIL  disk           OSError: [Errno 28] No space left on device  ->  make room"
    )


def test_no_line_shows_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalr/K7MDENG")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123abcd")

    def talkative() -> Finding:
        raise ValueError("wJalr/K7MDENG and 0123abcd at http://me:pass%21word@10.0.0.1:9000/x and s3://a:b@bucket/y")

    line = str(guarded("output", talkative, f"ask {os.environ['RAY_AUTH_TOKEN']}"))
    assert line.endswith("*** and *** at http://***@10.0.0.1:9000/x and s3://***@bucket/y  ->  ask ***")
