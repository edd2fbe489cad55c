"""The page that adds a system is followed to the letter: its files are written, its commands run in their order."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image
from tests.conftest import ROOT
from tests.house.pages import SHELLS, blocks, write_files

from lumiray.settings_file import read_settings

PAGE = (ROOT / "docs" / "adding-a-system.md").read_text()
GAINED_DB = 15.0  # least that training adds to the PSNR of the dark pictures


def psnr(one: Path, other: Path) -> float:
    pixels = (np.asarray(Image.open(file)).astype(float) for file in (one, other))
    error = np.square(np.subtract(*pixels)).mean()
    return float(10 * np.log10(255**2 / error))


def test_the_page_leads_from_nothing_to_a_system_that_restores_pictures(tmp_path: Path) -> None:
    write_files(PAGE, tmp_path)
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")  # the page is followed in a checkout's root
    script = "set -e\n" + "\n".join(text for language, text in blocks(PAGE) if language in SHELLS)
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'platform'}:{ROOT / 'models'}"}
    environment.pop("RAY_ADDRESS", None)  # the cluster of the other tests does not have the package
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr

    toy = tmp_path / "toy"
    for said in ("771 in curve", "3 passed", "train: 44 pairs", "held-out: 2 pairs", "2 restored, 0 left out"):
        assert said in done.stdout
    status = json.loads((toy / "run" / "status.json").read_text())
    assert (status["state"], status["step"]) == ("done", 100)
    assert (toy / "run" / "report.html").exists()
    assert (toy / "gain-curve.safetensors").exists()

    trials = [json.loads((toy / "study" / "trials" / str(n) / "status.json").read_text()) for n in range(3)]
    best = max(range(3), key=lambda number: trials[number]["metrics"]["psnr"])
    tried, again = (read_settings(str(toy / one / "config.yaml")) for one in (f"study/trials/{best}", "best-run"))
    assert [again[name] for name in ("lr", "width")] == [tried[name] for name in ("lr", "width")]
    assert again["steps"] == 100

    dark, bright, restored = (sorted(folder.iterdir()) for folder in places(toy))
    assert [one.name for one in restored] == [one.name for one in bright]
    before = np.mean([psnr(*pair) for pair in zip(dark, bright, strict=True)])
    after = np.mean([psnr(*pair) for pair in zip(restored, bright, strict=True)])
    assert after > before + GAINED_DB
    assert f"mean PSNR of {before:.1f} dB" in PAGE
    assert abs(status["metrics"]["psnr"] - after) < 0.05  # evaluation and restoration do the same


def places(toy: Path) -> tuple[Path, Path, Path]:
    """Folders of the dark, the bright and the restored held-out pictures."""
    return toy / "pairs" / "held-out" / "lq", toy / "pairs" / "held-out" / "gt", toy / "restored"
