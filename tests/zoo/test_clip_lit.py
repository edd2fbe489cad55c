"""CLIP-LIT beyond its published numbers: the chain of stages, odd pictures, files of weights."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.zoo.small_clips import SMALL, built, files, mixed, pictures

import lumizoo
from lumiray.errors import UserError
from lumiray.system import BadRow, Record, Row
from lumizoo.clip_lit.config import ClipLitConfig
from lumizoo.clip_lit.network import Enhancer, enhanced_in_training
from lumizoo.clip_lit.results import png, stored_result
from lumizoo.clip_lit.system import ClipLitSystem


def photo(height: int, width: int) -> np.ndarray:
    return pictures(1, 0.3, max(height, width))[0, :, :height, :width].permute(1, 2, 0).contiguous().numpy()


def enhancer(light: float = 0.5) -> Enhancer:
    """An enhancer whose light map is nearly the same everywhere, as after its reconstruction."""
    torch.manual_seed(1)
    network = Enhancer().eval()
    torch.nn.init.constant_(network.cond_add1.bias, light)
    return network


def restoring(network: Enhancer) -> ClipLitSystem:
    system = built(SMALL, "enhance-1")
    system.networks["enhancer"].load_state_dict(network.state_dict())
    return system


def test_stages_are_a_chain_with_published_lengths_and_batches() -> None:
    found = ClipLitSystem(ClipLitConfig(rounds=2)).stages()
    assert [(one.name, one.start, one.steps, one.global_batch_size) for one in found] == [
        ("prompts", None, 8000, 16),
        ("reconstruct", "prompts", 1000, 8),
        ("enhance-1", "reconstruct", 2100, 8),
        ("refine-1", "enhance-1", 1000, 32),
        ("enhance-2", "refine-1", 2100, 8),
        ("refine-2", "enhance-2", 1000, 32),
    ]
    assert {one.record for one in found} == {Record.UNPAIRED}
    for one in found:
        (player,) = one.players
        prompts = one.name.startswith(("prompts", "refine"))
        assert one.sources == (("backlit", "well-lit") if prompts else ("backlit",))
        assert one.derives == ("backlit" if one.name.startswith("refine") else None)
        assert player.name == player.networks[0] == ("prompts" if prompts else "enhancer")
        optimizer = player.optimizer
        assert (optimizer.name, optimizer.weight_decay, player.schedule.name) == ("adam", 1e-3, "constant")
        assert optimizer.lr == (5e-6 if prompts else 2e-5)
    assert sum(one.steps for one in ClipLitSystem().stages()) == 49_300


def test_one_network_moves_and_the_other_goes_along_locked(tmp_path: Path) -> None:
    config = files(tmp_path)
    for stage in ClipLitSystem(config).stages():
        system = built(config, stage.name)
        moved, held = stage.players[0].networks
        assert {moved, held} == {"enhancer", "prompts"}  # so both are in what a stage leaves, and the next takes up
        assert all(value.requires_grad for value in system.networks[moved].parameters())
        assert not any(value.requires_grad for value in system.networks[held].parameters())


@pytest.mark.parametrize(
    ("given", "first"),
    [
        ({"prompt_weights": "p.pth"}, "reconstruct"),
        ({"weights": "e.pth"}, "prompts"),
        ({"prompt_weights": "p.pth", "weights": "e.pth"}, "enhance-1"),
    ],
)
def test_what_is_given_is_not_trained_first(given: dict[str, str], first: str) -> None:
    plain, found = ClipLitSystem(SMALL).stages(), ClipLitSystem(replace(SMALL, **given)).stages()
    assert (found[0].name, found[0].start) == (first, None)
    assert found[1:] == plain[len(plain) - len(found) + 1 :]


def test_without_the_identity_term_there_is_no_reconstruction_and_no_file_is_asked_for(tmp_path: Path) -> None:
    config = replace(files(tmp_path), identity_weight=0.0, identity_weights=None)
    assert [one.name for one in ClipLitSystem(config).stages()][:2] == ["prompts", "enhance-1"]
    assert ClipLitSystem(config).portable().identity_weights is None
    system = built(config, "enhance-1")
    assert system.losses("enhancer", mixed(2), 0).keys() == {"backlit"}


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 13), (16, 24)])
def test_pictures_of_any_size_come_back_in_their_size_and_kind(size: tuple[int, int]) -> None:
    system = restoring(enhancer())
    array = system.restore(photo(*size))
    assert isinstance(array, np.ndarray) and (array.dtype, array.shape) == (np.uint8, (*size, 3))
    picture = system.restore(Image.fromarray(photo(*size)))
    assert isinstance(picture, Image.Image) and np.array_equal(np.asarray(picture), array)
    tensor = system.restore(torch.rand(2, 3, *size))
    assert tensor.shape == (2, 3, *size) and not tensor.requires_grad
    assert tensor.min() >= 0 and tensor.max() <= 1 and torch.isfinite(tensor).all()


def test_grey_and_transparent_pictures_come_back_as_such() -> None:
    system = restoring(enhancer())
    grey = Image.fromarray(photo(12, 14)).convert("L")
    assert system.restore(grey).mode == "L"
    clear = Image.fromarray(np.dstack((photo(12, 14), np.full((12, 14), 77, np.uint8))))
    assert np.asarray(system.restore(clear))[..., 3].tolist() == [[77] * 14] * 12


def test_levels_are_divided_by_the_light_map_and_rounded() -> None:
    network = enhancer()
    for name, value in network.named_parameters():
        if name != "cond_add1.bias":
            torch.nn.init.zeros_(value)
    torch.nn.init.constant_(network.cond_add1.bias, 0.75)
    levels = np.array([0, 1, 2, 100, 200], np.uint8)
    assert restoring(network).restore(np.tile(levels, (4, 1)))[0].tolist() == [0, 1, 3, 133, 255]


def test_black_stays_black_and_colour_becomes_white_where_there_is_no_light() -> None:
    network = enhancer(light=-100.0)
    picture = torch.tensor([0.0, 0.25]).repeat(3, 4, 2)
    assert torch.equal(restoring(network).restore(picture), (picture > 0).float())


def test_only_inference_reflects_at_the_border() -> None:
    network, given = enhancer(), torch.rand(1, 3, 20, 20)
    with torch.no_grad():
        zero, reflected = network(given), network(given, reflect=True)
    assert not torch.allclose(zero[..., 0, :], reflected[..., 0, :], atol=1e-4)
    system = restoring(network)
    assert torch.allclose(system.restore(given), (given / reflected).clamp(0, 1), atol=1e-6)


def test_a_stored_result_is_what_training_makes_of_the_square_picture() -> None:
    network = enhancer()
    square = np.asarray(Image.fromarray(photo(30, 50)).resize((48, 48), Image.Resampling.LANCZOS))
    with torch.no_grad():
        wanted = enhanced_in_training(network, torch.from_numpy(square.copy()).permute(2, 0, 1)[None] / 255)
    result = stored_result(network, photo(30, 50), 48)
    assert (result.dtype, result.shape) == (np.uint8, (48, 48, 3))
    assert np.array_equal(result, (wanted[0] * 255).round().permute(1, 2, 0).numpy().astype(np.uint8))


def png_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_rounds_hand_on_their_results_of_which_the_newest_two_stay() -> None:
    row = Row("key", {"png": png(photo(30, 50)), "txt": b"a window"}, 0)
    results = []
    for number, light in ((1, 0.5), (2, 0.6), (3, 0.7)):
        network = enhancer(light)
        system = restoring(network)
        (stage,) = (one for one in ClipLitSystem(replace(SMALL, rounds=3)).stages() if one.name == f"refine-{number}")
        parts = system.derived(stage, row)
        results.append(stored_result(network, photo(30, 50), SMALL.prompt_size))
        found = [png_of(parts[name]) for name in ("result1.png", "result2.png") if name in parts]
        assert len(found) == len(results[-2:])
        assert all(np.array_equal(one, other) for one, other in zip(found, results[-2:], strict=True))
        assert {name: parts[name] for name in ("png", "txt")} == {name: row.parts[name] for name in ("png", "txt")}
        row = Row("key", parts, 0)
        prepared = system.prepare(stage, row, np.random.default_rng(0))
        assert prepared["results"].shape == (len(found), 3, 48, 48)
    with pytest.raises(BadRow, match=r"has 0 results of earlier rounds and 1 are kept: .* in the folder records"):
        system.derived(stage, Row("key", {"png": png(photo(30, 50))}, 0))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_enhancers_are_read_with_and_without_their_prefix(tmp_path: Path, prefix: str) -> None:
    state = {f"{prefix}{name}": value for name, value in enhancer().state_dict().items()}
    torch.save(state, tmp_path / "enhancement_model.pth")
    system = lumizoo.load("clip-lit", weights=str(tmp_path / "enhancement_model.pth"))
    assert not system.networks.training
    given = photo(9, 10)
    assert np.array_equal(system.restore(given), restoring(enhancer()).restore(given))


def test_prompts_are_read_from_a_file_that_holds_the_text_encoder_too(tmp_path: Path) -> None:
    own = torch.randn(2, 8, 32)
    torch.save(
        {"module.embedding_prompt": own, "module.text_encoder.ln_final.weight": torch.ones(32)}, tmp_path / "pair.pth"
    )
    system = built(replace(files(tmp_path), prompt_weights=str(tmp_path / "pair.pth")), "refine-1")
    assert torch.equal(system.networks["prompts"].embedding_prompt, own)


def test_what_is_exported_can_be_given_for_both(tmp_path: Path) -> None:
    config = files(tmp_path)
    system = built(config, "refine-2")
    system.networks["enhancer"].load_state_dict(enhancer().state_dict())
    torch.nn.init.normal_(system.networks["prompts"].embedding_prompt)
    published = system.published_state(system.networks.state_dict())
    assert len(published) == 31 and {"cond1.bias", "embedding_prompt"} <= published.keys()
    file = str(tmp_path / "export.pth")
    torch.save(published, file)
    again = built(replace(config, weights=file, prompt_weights=file), "enhance-1")
    for name in ("enhancer", "prompts"):
        one, other = (each.networks[name].state_dict() for each in (system, again))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_weights_of_another_network_are_refused_with_names(tmp_path: Path) -> None:
    state = enhancer().state_dict()
    state["condz.weight"] = state.pop("condx.weight")
    torch.save(state, tmp_path / "other.pth")
    told = r"--weights .*other\.pth does not fit the model: 1 missing: condx\.weight; 1 unexpected: condz\.weight"
    with pytest.raises(UserError, match=told):
        built(replace(SMALL, weights=str(tmp_path / "other.pth")), "enhance-1")
    told = r"--prompt-weights .*other\.pth does not fit the model: 1 missing: embedding_prompt; 30 unexpected"
    with pytest.raises(UserError, match=told):
        built(replace(SMALL, prompt_weights=str(tmp_path / "other.pth")), "enhance-1")
    torch.save({"embedding_prompt": torch.zeros(2, 77, 512)}, tmp_path / "large.pth")
    with pytest.raises(UserError, match=r"other shapes: embedding_prompt \(2, 77, 512\) for \(2, 8, 32\)"):
        built(replace(SMALL, prompt_weights=str(tmp_path / "large.pth")), "enhance-1")
    config = files(tmp_path)
    for name in ("clip", "identity"):
        torch.save(enhancer().state_dict(), tmp_path / f"{name}.pt")
        told = rf"--{name}-weights .*{name}\.pt does not fit the model.* It looks like a checkpoint of clip-lit"
        with pytest.raises(UserError, match=told):
            built(config, "enhance-1")
        files(tmp_path)


def test_clips_are_read_in_the_layouts_of_openai_and_of_this_project(tmp_path: Path) -> None:
    config = files(tmp_path)
    for name, weights in (("clip", "clip_weights"), ("identity", "identity_weights")):
        plain = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        wanted = built(config, "enhance-1").networks[name].state_dict()
        openai = plain | {"input_resolution": torch.tensor(32), "context_length": torch.tensor(8)}
        ours = {f"clip.{key}": value.reshape(1) if key == "logit_scale" else value for key, value in plain.items()}
        for number, state in enumerate((openai, ours)):
            torch.save(state, tmp_path / f"{number}.pt")
            found = built(replace(config, **{weights: str(tmp_path / f"{number}.pt")}), "enhance-1").networks[name]
            assert all(torch.equal(value, wanted[key]) for key, value in found.state_dict().items())


def test_training_wants_the_clips_files_before_a_job_and_in_it_but_use_does_not(tmp_path: Path) -> None:
    config = files(tmp_path)
    told = {
        "clip_weights": r"--clip-weights is missing.*open_clip_model\.safetensors of .*vit_base_patch32",
        "identity_weights": r"--identity-weights is missing.*resnet101_clip.*--identity-weight 0",
    }
    for name, text in told.items():
        system = built(replace(config, **{name: None}), "enhance-1")
        with pytest.raises(UserError, match=text):
            system.portable()
        with pytest.raises(UserError, match=text):
            system.losses("enhancer", mixed(1), 0)
        assert system.restore(torch.rand(3, 8, 8)).shape == (3, 8, 8)
        with pytest.raises(UserError, match=r"nowhere\.pt: no such file"):
            ClipLitSystem(replace(config, **{name: str(tmp_path / "nowhere.pt")})).portable()


def test_model_configurations_in_files_become_their_content_on_the_way_to_workers(tmp_path: Path) -> None:
    config = files(tmp_path)
    (tmp_path / "clip.json").write_text(config.clip_model)
    assert ClipLitSystem(replace(config, clip_model=str(tmp_path / "clip.json"))).portable() == config


def text_of(**changed: int) -> str:
    settings = json.loads(SMALL.clip_model)
    return json.dumps(settings | {"text_cfg": settings["text_cfg"] | changed})


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"clip_model": "ViT-B-33"}, "--clip-model 'ViT-B-33': open_clip has no model"),
        ({"prompt_length": 7}, "--prompt-length is 7; texts of --clip-model have 8 tokens.*at most 6"),
        ({"clip_model": text_of(vocab_size=500)}, "--clip-model has 500 tokens and CLIP's tokenizer 49408: give"),
        ({"identity_model": SMALL.clip_model}, "--identity-model .* is no residual network; RN101-quickgelu"),
        ({"clip_model": "roberta-ViT-B-32", "prompt_length": 4}, "its text tower is not CLIP's own"),
    ],
)
def test_clips_that_cannot_serve_are_refused(tmp_path: Path, setting: dict, told: str) -> None:
    config = replace(files(tmp_path), **setting)
    with pytest.raises(UserError, match=told):
        ClipLitSystem(config).portable()


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"rounds": 0}, "--rounds is 0; it must be at least 1"),
        ({"identity_weight": -1.0}, "--identity-weight is -1.0"),
        ({"prompt_length": 0}, "--prompt-length is 0"),
        ({"enhancer_size": 1}, "--enhancer-size is 1"),
        ({"prompt_size": 1}, "--prompt-size is 1"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_option(setting: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        ClipLitConfig(**setting)
