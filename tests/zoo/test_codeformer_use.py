"""CodeFormer in use: pictures of any kind, the weight of fidelity, files of weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.zoo.codeformer_faces import TINY, batch, built, face

import lumizoo
from lumiray.errors import UserError
from lumiray.registry import about
from lumiray.system import System
from lumizoo.codeformer.system import CodeformerSystem

FIDELITIES = (0.0, 0.3, 1.0)


@pytest.mark.parametrize("stage", ["vqgan", "codes", "features"])
@pytest.mark.parametrize("size", [(48, 48), (96, 96), (7, 13)])
def test_pictures_of_any_size_come_back_in_their_size_and_kind(stage: str, size: tuple[int, int]) -> None:
    system = built(stage)
    picture = face(96)[: size[0], : size[1]]
    array = system.restore(picture)
    assert isinstance(array, np.ndarray) and (array.dtype, array.shape) == (np.uint8, (*size, 3))
    image = system.restore(Image.fromarray(picture))
    assert isinstance(image, Image.Image) and np.array_equal(np.asarray(image), array)
    tensor = system.restore(torch.rand(2, 3, *size))
    assert tensor.shape == (2, 3, *size) and not tensor.requires_grad
    assert tensor.min() >= 0 and tensor.max() <= 1 and torch.isfinite(tensor).all()


def test_several_weights_of_fidelity_are_one_look_at_the_face() -> None:
    system = built("features")
    network = system.networks["codeformer"]
    calls: list[str] = []
    for name in ("encoder", "idx_pred_layer", "generator"):
        part = getattr(network, name)
        part.register_forward_hook(lambda *_, name=name: calls.append(name))
    looks = []
    network.encoder.blocks[0].register_forward_hook(lambda *_: looks.append(1))
    together = system.restore_at(face(60), FIDELITIES)
    assert calls == ["idx_pred_layer", *["generator"] * 3] and len(looks) == 1
    for one, fidelity in zip(together, FIDELITIES, strict=True):
        assert np.array_equal(one, system.restore(face(60), fidelity))
    assert difference(together[0], together[1]) > 0 and difference(together[1], together[2]) > 0
    tensors = system.restore_at(torch.rand(2, 3, 48, 48), FIDELITIES)
    assert [one.shape for one in tensors] == [(2, 3, 48, 48)] * 3


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def test_fidelity_is_the_published_one_of_the_stage_or_that_of_the_settings() -> None:
    picture = face()
    system = built("features")
    assert np.array_equal(system.restore(picture), system.restore(picture, 0.5))
    faithful = built("features", replace(TINY, fidelity=1.0))
    assert np.array_equal(faithful.restore(picture), system.restore(picture, 1.0))
    without = built("codes", replace(TINY, fidelity=1.0))  # a stage that trains no connections
    assert np.array_equal(without.restore(picture), without.restore(picture, 0.0))
    assert not np.array_equal(without.restore(picture), without.restore(picture, 1.0))
    with pytest.raises(UserError, match=r"--fidelity is -1"):
        system.restore(picture, -1)


def test_what_evaluation_compares_is_the_result_as_it_is_saved() -> None:
    for stage, given in (("vqgan", "clean"), ("codes", "degraded"), ("features", "degraded")):
        system, rows = built(stage), batch()
        found = system.embed(rows)
        assert torch.equal(found["reference"], rows["clean"]) and found["restored"].dtype == torch.uint8
        array = rows[given][1].permute(1, 2, 0).numpy()
        restored = found["restored"][1].permute(1, 2, 0).numpy()
        assert np.abs(system.restore(array).astype(int) - restored).max() <= 1


def loaded(**settings: Any) -> System:
    return lumizoo.load("codeformer", **{**vars(TINY), **settings})


@pytest.mark.parametrize("wrapper", ["params_ema", "params", None])
def test_a_checkpoint_goes_out_and_in_under_published_names(wrapper: str | None, tmp_path: Path) -> None:
    system = built("features")
    state = system.published_state(dict(system.networks.state_dict()))
    assert state.keys() == system.networks["codeformer"].state_dict().keys()
    assert {"position_emb", "ft_layers.0.self_attn.in_proj_weight", "fuse_convs_dict.48.shift.2.weight"} <= state.keys()
    path = str(tmp_path / "codeformer.pth")
    torch.save({wrapper: state} if wrapper else state, path)
    torch.manual_seed(5)  # other weights, if the file were not read
    again = loaded(weights=path)
    assert not again.networks.training
    assert np.array_equal(again.restore(face()), system.restore(face()))


def test_averaged_weights_are_taken_where_both_are_there(tmp_path: Path) -> None:
    state = built("vqgan").networks["vqgan"].state_dict()
    other = built("vqgan", seed=4).networks["vqgan"].state_dict()
    torch.save({"params": other, "params_ema": state}, tmp_path / "vqgan.pth")
    system = CodeformerSystem(replace(TINY, weights=str(tmp_path / "vqgan.pth")))
    own = system.build(system.stages()[0])["vqgan"].state_dict()
    assert all(torch.equal(own[name], value) for name, value in state.items())


def test_stage_vqgan_goes_out_as_the_file_that_the_later_stages_read(tmp_path: Path) -> None:
    first = built("vqgan", seed=7)
    path = str(tmp_path / "vqgan.pth")
    torch.save({"params_ema": first.published_state(dict(first.networks.state_dict()))}, path)
    system = CodeformerSystem(replace(TINY, vqgan_weights=path))
    network = system.build(system.stages()[1])["codeformer"]
    for name, value in first.networks["vqgan"].state_dict().items():
        assert torch.equal(network.state_dict()[name], value)


def test_weights_of_another_network_are_refused_with_whose_they_are(tmp_path: Path) -> None:
    path = str(tmp_path / "other.pth")
    torch.save({name: torch.ones(1) for name in about("cidnet").tensors}, path)
    with pytest.raises(
        UserError, match=r"--weights .*other\.pth does not fit the model: .*looks like a checkpoint of cid"
    ):
        loaded(weights=path)
    torch.save(built("vqgan").networks["vqgan"].state_dict(), path)
    with pytest.raises(UserError, match=r"does not fit the model: .* missing: feat_emb\.bias"):
        loaded(weights=path)


def test_files_become_whole_paths_and_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pth").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    for name in ("weights", "vqgan_weights", "discriminator_weights", "vgg_weights", "lpips_weights"):
        portable = CodeformerSystem(replace(TINY, **{name: "a.pth"})).portable()
        assert getattr(portable, name) == str(tmp_path / "a.pth")
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')} b.pth: no such file"):
            CodeformerSystem(replace(TINY, **{name: "b.pth"})).portable()
