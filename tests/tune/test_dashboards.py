"""A study in the browser: what TensorBoard and optuna-dashboard are given, and what they show."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.tune.studies import SPACE, begun, small_study

from lumiray.cli import main
from lumiray.tune.dashboards import HOST, dashboards
from lumiray.tune.hparams import Sessions

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking")


def two_free_ports() -> int:
    """The first of two neighbours that nobody listens at."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind((HOST, 0))
            port: int = one.getsockname()[1]
            try:
                other.bind((HOST, port + 1))
            except OSError:
                continue
            return port


def told(folder: Path) -> dict[str, dict[str, Any]]:
    """What event files say of each trial: values, status, and (step, figure) by metric."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    found = {}
    for one in sorted(folder.iterdir()):
        events = EventAccumulator(str(one))
        events.Reload()
        data = {
            tag: HParamsPluginData.FromString(content) for tag, content in events.PluginTagToContent("hparams").items()
        }
        start = data[metadata.SESSION_START_INFO_TAG].session_start_info
        end = data.get(metadata.SESSION_END_INFO_TAG)
        values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
        scalars = {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
        found[one.name] = {"values": values, "status": end and end.session_end_info.status, "scalars": scalars}
    return found


def test_each_trial_is_a_session_that_grows_and_ends_once(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams.api_pb2 import Status

    study = begun(tmp_path / "both", "psnr,-loss")
    sessions = Sessions(tmp_path / "events", study.metrics)
    first, second, third = (study.ask(SPACE, "random", 0) for _ in range(3))
    study.report(first.number, 10, 20.0)
    sessions.update(study.trials())
    study.report(first.number, 20, 21.5)
    study.finish(first.number, "done", (21.5, 0.25))
    study.finish(second.number, "stopped")
    for _ in range(2):
        sessions.update(study.trials())
    found = told(tmp_path / "events")
    assert list(found) == ["trial-000", "trial-001", "trial-002"]
    assert found["trial-000"]["scalars"] == {"psnr": [(10, 20.0), (20, 21.5)], "loss": [(20, 0.25)]}
    assert found["trial-000"]["values"] == {
        "lr": first.values["lr"],
        "channels": json.dumps(first.values["channels"]),
    }
    assert [one["status"] for one in found.values()] == [Status.STATUS_SUCCESS, Status.STATUS_UNKNOWN, None]
    assert third.number == 2


def test_both_pages_have_the_trials_of_the_records(tmp_path: Path) -> None:
    study, port = small_study(tmp_path / "brighter"), two_free_ports()
    with dashboards(study, port) as (addresses, look):
        assert addresses == {
            "TensorBoard": f"http://{HOST}:{port}/#hparams",
            "optuna-dashboard": f"http://{HOST}:{port + 1}/",
        }
        study.ask(SPACE, "random", 0)
        look()
        with urllib.request.urlopen(f"http://{HOST}:{port + 1}/api/studies/1?after=0") as answer:
            trials = json.load(answer)["trials"]
        with urllib.request.urlopen(f"http://{HOST}:{port}/data/runs") as answer:
            runs = json.load(answer)
    assert [one["state"] for one in trials] == ["Complete", "Complete", "Complete", "Fail", "Running"]
    assert runs == [f"trial-{number:03d}" for number in range(5)][: len(runs)] and len(runs) >= 4
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://{HOST}:{port + 1}/")  # it has ended


def test_what_is_in_the_way_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["study", "dashboards", str(tmp_path)]) == 2
    assert "there is no study (study.db)" in capsys.readouterr().err
    small_study(tmp_path / "brighter")
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        for wanted in (port, port - 1):
            assert main(["study", "dashboards", str(tmp_path / "brighter"), "--port", str(wanted)]) == 2
            assert f"Port {port} cannot be used" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    assert main(["study", "dashboards", str(tmp_path / "brighter")]) == 2
    assert "pip install 'lumiray[dashboards]'" in capsys.readouterr().err


def browse(address: str, folder: Path, *what: str) -> str:
    """A page in Chromium, after its scripts have run."""
    options = [*(f"--{one}" for one in QUIET), f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000"]
    done = subprocess.run(
        [str(CHROMIUM), *options, "--window-size=1300,900", *what, address], capture_output=True, text=True, check=True
    )
    return done.stdout


def assert_shown(address: str, folder: Path, *words: str) -> None:
    """A page's own requests may outlast its budget on a busy machine: it is looked at again."""
    missing = list(words)
    for _ in range(5):
        page = browse(address, folder, "--dump-dom")
        missing = [one for one in words if one not in page]
        if not missing:
            return
    raise AssertionError(f"{address} does not show {missing}")


def colours(picture: Path) -> int:
    return len(np.unique(np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3), axis=0))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
def test_a_browser_shows_the_report_and_both_dashboards(tmp_path: Path) -> None:
    study, port = small_study(tmp_path / "brighter"), two_free_ports()
    assert main(["study", "show", str(tmp_path / "brighter")]) == 0
    report = (tmp_path / "brighter" / "report.html").as_uri()
    with dashboards(study, port) as (addresses, _):
        pages = addresses | {"report": report, "optuna": f"http://{HOST}:{port + 1}/dashboard/studies/1/trialTable"}
        for name, address in pages.items():
            browse(address, tmp_path, f"--screenshot={tmp_path / f'{name}.png'}")
            assert colours(tmp_path / f"{name}.png") > 50, f"{name}: nothing but a plain surface"
        assert_shown(pages["optuna"], tmp_path, "22.5", "Fail")
        assert_shown(report, tmp_path, "22.5", "the loss is not finite")
