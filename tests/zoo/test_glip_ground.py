"""`lumiray ground` with a network that has learnt squares: lines, a drawing, and what cannot be used."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.zoo.glip_squares import built, learn, options_of, png, squares, tiny

from lumiray.cli import main
from lumizoo.glip.config import GlipConfig


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> GlipConfig:
    """Settings with the weights of a network that finds squares."""
    folder = tmp_path_factory.mktemp("learnt")
    config = tiny(folder, swin_depths=(1, 1, 1, 1))
    system = built(config)
    learn(system, np.random.default_rng(0), 60)
    torch.save(system.published_state(system.networks.state_dict()), folder / "squares.pth")
    return dataclasses.replace(config, weights=str(folder / "squares.pth"))


def ground(*line: Any) -> int:
    return main(["ground", *map(str, line)])


def test_boxes_are_listed_and_drawn(learnt: GlipConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, told = squares(np.random.default_rng(3), 64, 96)
    (tmp_path / "photo.png").write_bytes(png(picture))
    text, options = told["caption"] + ".", options_of(learnt)
    assert ground(tmp_path / "photo.png", text, *options, "--threshold", "0.45", "--output", tmp_path / "out.jpg") == 0
    *lines, last = capsys.readouterr().out.strip().splitlines()
    assert last == f"drawn in {tmp_path / 'out.jpg'}"
    best: dict[str, list[float]] = {}
    for line in lines:
        phrase, score, corners = line.split("  ")
        assert 0.45 < float(score) <= 1
        best.setdefault(phrase, [float(one) for one in corners.split()])
    for phrase, box in zip(told["caption"].split(". "), told["boxes"], strict=True):
        assert np.abs(np.array(best[phrase]) - (np.array(box) - [0, 0, 1, 1])).max() < 8, phrase
    assert Image.open(tmp_path / "out.jpg").size == (384, 256)


def test_a_text_that_finds_nothing_is_said(
    learnt: GlipConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.full((40, 40), 30_000, np.uint16)).save(tmp_path / "deep.png")  # grey, 16 bits
    options = ("--threshold", "0.99", "--output", tmp_path / "out.webp")
    assert ground(tmp_path / "deep.png", "red", *options_of(learnt), *options) == 0
    assert "nothing scores above 0.99" in capsys.readouterr().out
    assert Image.open(tmp_path / "out.webp").size == (320, 320)


@pytest.mark.parametrize(
    ("picture", "text", "more", "told"),
    [
        ("broken.png", "red", (), "broken.png: not a picture"),
        ("gone.png", "red", (), "gone.png"),
        ("photo.png", " . ", (), "The text has no phrase"),
        ("photo.png", "red", ("--weights", "none"), "--weights is missing"),
        ("photo.png", "red", ("--threshold", "7"), "--threshold is 7"),
        ("photo.png", "red", ("--output", "a.gif"), "it must end with .png"),
    ],
)
def test_what_cannot_be_grounded_gets_one_message(
    learnt: GlipConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    picture: str,
    text: str,
    more: tuple[str, ...],
    told: str,
) -> None:
    (tmp_path / "broken.png").write_bytes(b"<html>")
    (tmp_path / "photo.png").write_bytes(png(np.zeros((8, 8, 3), np.uint8)))
    try:
        code = ground(tmp_path / picture, text, *options_of(learnt), "--output", tmp_path / "out.png", *more)
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def test_a_system_that_grounds_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert ground("a.png", "red", "--system", "clip", "--weights", "w.pt", "--output", "o.png") == 2
    assert "clip grounds no phrases; these do: glip." in capsys.readouterr().err
