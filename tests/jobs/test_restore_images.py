"""The job that restores folders, as a process: alone without Ray, and with a pool of processes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import start_job

import lumizoo
from lumiray.data.picture_file import Picture, png

SIZES = ("--channels", "4", "4", "8", "8", "--heads", "1", "2", "2", "4")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    torch.manual_seed(0)
    system = lumizoo.load("cidnet", channels=(4, 4, 8, 8), heads=(1, 2, 2, 4))
    torch.save(system.networks["cidnet"].state_dict(), folder / "tiny.pth")
    (folder / "in").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 90, (20 + number, 30, 3), dtype=np.uint8)
        (folder / "in" / f"{number}.png").write_bytes(png(Picture(pixels)))
    (folder / "in" / "broken.png").write_bytes(b"<html>404</html>")
    return folder


def test_one_process_and_a_pool_give_the_same_files(
    work: Path, ray_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    options = ("cidnet", *SIZES, "--weights", str(work / "tiny.pth"), "--input", str(work / "in"))
    files = {}
    for name, more, address in (("alone", (), None), ("pool", ("--workers", "2"), ray_address)):
        code, text = start_job("restore_images.py", str(work / name), *options, *more, ray_address=address).finish()
        assert code == 1, text
        assert "Traceback" not in text
        assert "error: 1 of 4 pictures could not be restored:\n  left out: broken.png: not a picture (16 bytes)" in text
        assert "3 restored, 1 left out, 0 already there" in text
        assert sorted(os.listdir(work / name)) == ["0.png", "1.png", "2.png"]
        files[name] = [(work / name / file).read_bytes() for file in sorted(os.listdir(work / name))]
    assert files["alone"] == files["pool"]


def test_weights_that_do_not_fit_are_refused_before_anything_is_written(work: Path) -> None:
    torch.save(
        {"conv1.weight": torch.ones(1), "conv2.bias": torch.ones(1), "conv3.weight": torch.ones(1)}, work / "o.pth"
    )
    options = ("cidnet", "--weights", str(work / "o.pth"), "--input", str(work / "in"))
    code, text = start_job("restore_images.py", str(work / "nothing"), *options).finish()
    assert code == 2, text
    assert "does not fit the model" in text
    assert "It looks like a checkpoint of zs-n2n." in text
    assert not (work / "nothing").exists()
