"""Records in a real PostgreSQL of the system's packages."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.settings import default_job
from tests.tune.test_study import ABOUT, SPACE

from lumiray.cli import main
from lumiray.errors import RunFailure
from lumiray.settings_file import to_yaml
from lumiray.tune.place import place_of
from lumiray.tune.study import described, open_study

INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
pytestmark = pytest.mark.skipif(not INSTALLED, reason="no PostgreSQL is installed: apt-get install postgresql")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Address of a server with the database `studies` and a user with a password."""
    programs = INSTALLED[-1].parent
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []  # it refuses to run as root
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="lumiray-postgresql-"))
    (folder / "password").write_text("hush-hush")
    if as_user:
        shutil.chown(folder, "postgres")
        shutil.chown(folder / "password", "postgres")

    def run(program: str, *arguments: str) -> None:
        subprocess.run([*as_user, str(programs / program), *arguments], check=True, stdout=subprocess.DEVNULL, cwd="/")

    data = str(folder / "data")
    run("initdb", "-D", data, "-U", "me", "-A", "scram-sha-256", f"--pwfile={folder}/password", "--no-sync")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    run("pg_ctl", "-D", data, "-l", f"{folder}/log", "-o", options, "-w", "-t", "120", "start")
    try:
        import psycopg

        address = f"postgresql://me:hush-hush@127.0.0.1:{port}"
        with psycopg.connect(f"{address}/postgres", autocommit=True) as connection:
            connection.execute("create database studies")
        yield f"{address}/studies"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def test_several_studies_lie_in_one_database_and_are_read_by_their_names(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    about = ABOUT | {"job": to_yaml(default_job("cidnet"))} | described(SPACE)
    for name, value in (("first", 20.0), ("second", 22.0)):
        (tmp_path / name).mkdir()
        study = open_study(place_of(str(tmp_path / name), server, new=True), name, about)
        study.report(study.ask(SPACE, "tpe", seed=0).number, 10, value)
        study.finish(0, "done", value, seconds=1.0)
    assert main(["study", "show", str(tmp_path / "second"), "--storage", server]) == 0
    text = capsys.readouterr().out
    assert "best: trial 0, psnr 22" in text
    assert "hush-hush" not in text + (tmp_path / "second" / "report.html").read_text()
    assert main(["study", "show", str(tmp_path / "third"), "--storage", server]) == 2
    said = capsys.readouterr().err
    assert "there is no study 'third'; there are ['first', 'second']" in said
    assert "hush-hush" not in said
    assert list(tmp_path.rglob("study.db")) == []


def test_a_wrong_password_is_said_without_it(server: str) -> None:
    with pytest.raises(RunFailure, match=r"cannot be used: .*password authentication failed") as refused:
        open_study(place_of("o", server.replace("hush-hush", "wrong-word"), new=True), "o", ABOUT)
    assert "wrong-word" not in str(refused.value)
