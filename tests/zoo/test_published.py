"""Files of weights: what wraps them is taken off, what could run code is refused, what does not fit is named."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lumiray.errors import UserError
from lumizoo.blocks.published import load_strictly, read_state, whole_path

STATE = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}
AVERAGED = {name: value + 1 for name, value in STATE.items()}


def saved(folder: Path, content: Any) -> str:
    torch.save(content, folder / "weights.pth")
    return str(folder / "weights.pth")


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"params": STATE},
        {"model": {"state_dict": STATE}},
        {"state_dict": {f"module.{name}": value for name, value in STATE.items()}},
        nn.ParameterDict(STATE).state_dict(),
    ],
)
def test_what_training_programs_put_around_a_state_dict_is_taken_off(tmp_path: Path, content: Any) -> None:
    assert same(read_state(saved(tmp_path, content)), STATE)


def test_averaged_weights_win_over_those_of_the_last_step(tmp_path: Path) -> None:
    assert same(read_state(saved(tmp_path, {"params": STATE, "params_ema": AVERAGED})), AVERAGED)


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "weights.safetensors")
    assert same(read_state(str(tmp_path / "weights.safetensors")), STATE)


class Hostile:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_in_a_file_is_refused_and_does_not_run(tmp_path: Path, write: Any) -> None:
    path, mark = tmp_path / "weights.pth", tmp_path / "mark"
    write({"state_dict": {**STATE, "extra": Hostile(f"touch {mark}")}}, path)
    with pytest.raises(UserError, match=r"--weights .*weights\.pth: not a file of tensors.*safetensors instead\.$"):
        read_state(str(path))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x80", b"PK\x03\x04 cut off", b"not weights at all" * 9])
def test_broken_files_are_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"--vgg-weights .*{name}: not a file of tensors"):
        read_state(str(tmp_path / name), "vgg-weights")


@pytest.mark.parametrize("content", [{}, [1, 2], STATE["bias"], {"state_dict": {"a": 1}}, {1: STATE["bias"]}, "text"])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(UserError, match=r"weights\.pth: holds no state dict of tensors.* Save the network's state"):
        read_state(saved(tmp_path, content))


def test_a_checkpoint_of_another_system_is_told_by_its_names() -> None:
    names = ("logit_scale", "visual.conv1.weight", "token_embedding.weight")
    with pytest.raises(UserError, match=r"does not fit the model: .*\. It looks like a checkpoint of clip\.$"):
        load_strictly(nn.Linear(3, 2), {name: torch.ones(1) for name in names}, "a.pth")


def test_a_missing_file_is_refused_and_a_present_one_gets_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for call in (read_state, whole_path):
        with pytest.raises(UserError, match=r"--weights nowhere\.pth: no such file"):
            call("nowhere.pth")
    saved(tmp_path, STATE)
    assert whole_path("weights.pth") == str((tmp_path / "weights.pth").resolve())
    assert whole_path(None) is None


def test_tensors_that_do_not_fit_are_counted_and_the_first_are_named() -> None:
    layer = nn.Linear(3, 2)
    load_strictly(layer, STATE, "a.pth")
    assert torch.equal(layer.weight, STATE["weight"])
    before = layer.bias.clone()
    extra = {f"layer{number}": torch.ones(1) for number in range(7)}
    with pytest.raises(UserError) as told:
        load_strictly(layer, {"weight": torch.ones(2, 4)} | extra, "a.pth")
    assert str(told.value) == (
        "--weights a.pth does not fit the model: 1 missing: bias; 7 unexpected: layer0, layer1, layer2, layer3, "
        "layer4 ...; 1 other shapes: weight (2, 4) for (2, 3)."
    )
    assert torch.equal(layer.bias, before)
