"""One driver of a study at a time, also after kills and across hosts."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lumiray.errors import RunFailure, UserError
from lumiray.storage import exists, join, write_atomically
from lumiray.tune import lease as module
from lumiray.tune.lease import FILE, lease


def test_a_second_driver_is_refused_and_may_begin_when_the_first_has_ended(tmp_path: Path) -> None:
    refused = pytest.raises(UserError, match="Another driver is at work on this study")
    with lease(str(tmp_path)), refused, lease(str(tmp_path)):
        raise AssertionError
    assert not (tmp_path / FILE).exists()
    with lease(str(tmp_path)):
        assert (tmp_path / FILE).exists()


def test_a_driver_of_this_host_that_was_killed_is_not_waited_for(tmp_path: Path) -> None:
    code = f"import os; from lumiray.tune.lease import lease\nwith lease({str(tmp_path)!r}): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert (tmp_path / FILE).exists()
    begin = time.monotonic()
    with lease(str(tmp_path)):
        assert time.monotonic() - begin < 5


@pytest.mark.parametrize("alive", [True, False])
def test_a_driver_of_another_host_is_refused_if_it_gives_a_sign(
    s3: str, monkeypatch: pytest.MonkeyPatch, alive: bool
) -> None:
    monkeypatch.setattr(module, "SILENT_S", 4.0)
    other = {"id": "x", "host": "elsewhere", "pid": 1, "started": 1.0}
    place = join(s3, FILE)
    write_atomically(place, json.dumps(other | {"beat": 3}).encode())
    beat = threading.Timer(1.0, write_atomically, (place, json.dumps(other | {"beat": 4}).encode()))
    if alive:
        beat.start()
        with pytest.raises(UserError, match="process 1 on elsewhere"), lease(s3):
            raise AssertionError
        beat.join()
    else:
        with lease(s3):
            assert exists(place)
        assert not exists(place)


def test_a_file_that_is_none_of_ours_is_said(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(RunFailure, match="is not what a search leaves there"), lease(str(tmp_path)):
        raise AssertionError
