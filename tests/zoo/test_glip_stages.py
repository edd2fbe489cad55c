"""Fine-tuning of GLIP: what is named in training, what moves and what stays, and the tuned prompt in use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.zoo.glip_squares import COLOURS, batch_of, row, squares, tiny

import lumizoo
from lumiray.system import Row, Stage, stage_named
from lumiray.train.engine import make_optimizer
from lumiray.train.terms import Totals, combine
from lumizoo.glip.network import TABLE
from lumizoo.glip.prompts import ClassName, prompt_with_some
from lumizoo.glip.system import GlipSystem


def ready(folder: Path, name: str) -> tuple[GlipSystem, Stage]:
    torch.manual_seed(0)
    system = GlipSystem(tiny(folder))
    system.build(stage_named(system, name))
    return system, stage_named(system, name)


def named_squares(seed: int) -> Row:
    """Squares of a row with classes."""
    picture, told = squares(np.random.default_rng(seed))
    labels = [list(COLOURS).index(told["caption"][start:end]) for ((start, end),) in told["spans"]]
    return row(picture, classes=list(COLOURS), boxes=told["boxes"], labels=labels)


def tuned(system: GlipSystem, stage: Stage) -> torch.optim.Optimizer:
    """Three steps on one batch with the stage's own optimizer, all of it at its full rate."""
    (player,) = stage.players
    optimizer = make_optimizer(system.networks, player, offload=False)
    rows = [system.prepare(stage, named_squares(seed), np.random.default_rng(seed)) for seed in range(4)]
    batch = batch_of(system, rows)
    totals = Totals({name: value.float() for name, value in system.counts("glip", batch).items()}, 1, 1)
    for _ in range(3):
        optimizer.zero_grad()
        combine(system.losses("glip", batch, 0), 1.0, torch.device("cpu"), totals).loss.backward()
        optimizer.step()
    return optimizer


def test_prompt_tuning_moves_its_table_and_nothing_else(tmp_path: Path) -> None:
    system, stage = ready(tmp_path, "prompt")
    before = {name: value.clone() for name, value in system.networks.state_dict().items()}
    optimizer = tuned(system, stage)
    after = system.networks.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == {f"glip.{TABLE}"}
    frozen = [value for name, value in system.networks.named_parameters() if name != f"glip.{TABLE}"]
    assert all(value.grad is None and value not in optimizer.state for value in frozen)
    (group,) = optimizer.param_groups
    assert (len(group["params"]), group["lr"], group["weight_decay"]) == (1, 0.05, 0.25)
    table = after[f"glip.{TABLE}"]
    assert table.shape == (1000, 32) and table[:6].any() and not table[16:].any()  # a text has 16 tokens here


def test_a_fresh_table_changes_nothing_and_a_tuned_one_is_used(tmp_path: Path) -> None:
    """Weights without a table, as they are published, and those that the stage leaves, both by their file."""
    plain, _ = ready(tmp_path, "pretrain")
    plain.networks["glip"].rpn["head"].bias0.data.fill_(0.0)
    plain.networks.eval()
    picture, _ = squares(np.random.default_rng(0))
    expected = plain.detect(picture, list(COLOURS), threshold=0.0)
    without, own = tmp_path / "plain.safetensors", tmp_path / "tuned.safetensors"
    save_file(plain.published_state(plain.networks.state_dict()), without)

    settings = {**vars(tiny(tmp_path)), "weights": str(without)}
    loaded = lumizoo.load("glip", **settings)
    found = loaded.detect(picture, list(COLOURS), threshold=0.0)
    assert torch.equal(found.scores, expected.scores) and torch.equal(found.boxes, expected.boxes)

    tuned(loaded, stage_named(loaded, "prompt"))
    moved = loaded.detect(picture, list(COLOURS), threshold=0.0)
    assert not torch.equal(moved.scores, expected.scores)
    save_file(loaded.published_state(loaded.networks.state_dict()), own)
    again = lumizoo.load("glip", **{**settings, "weights": str(own)})
    assert torch.equal(again.detect(picture, list(COLOURS), threshold=0.0).scores, moved.scores)


def test_fine_tuning_moves_both_towers_at_one_rate_and_biases_at_twice_that(tmp_path: Path) -> None:
    system, stage = ready(tmp_path, "finetune")
    (player,) = stage.players
    assert (player.optimizer.lr, stage.global_batch_size, stage.start) == (1e-5, 32, "pretrain")
    assert set(player.lr_factors.values()) == {2.0} and set(player.lr_factors) == player.no_decay
    assert f"glip.{TABLE}" not in system.networks.state_dict()
    before = {name: value.clone() for name, value in system.networks.named_parameters()}
    tuned(system, stage)
    for part in ("backbone.body.layers.0", "language_backbone.body.model.encoder", "rpn.head.dyhead_tower"):
        own = [name for name in before if name.startswith(f"glip.{part}")]
        now = dict(system.networks.named_parameters())
        assert any(not torch.equal(now[name], before[name]) for name in own), part


@pytest.mark.parametrize("stage", ["finetune", "prompt"])
def test_all_classes_are_named_in_their_order(tmp_path: Path, stage: str) -> None:
    system, own = ready(tmp_path, stage)
    asked = system.preparation.tokenizer("red. green. blue").ids
    for seed in range(4):
        found = system.prepare(own, named_squares(seed), np.random.default_rng(seed))
        assert np.array_equal(found["tokens"][0], asked)
    shuffled = [
        system.prepare(system.stages()[0], named_squares(1), np.random.default_rng(seed))["tokens"] for seed in range(9)
    ]
    assert any(not np.array_equal(one[0], asked) for one in shuffled)


def test_of_several_texts_one_that_names_a_box_is_taken(tmp_path: Path) -> None:
    tokenizer = GlipSystem(tiny(tmp_path, max_tokens=64)).preparation.tokenizer
    names = [ClassName(one) for one in ("one", "two", "three", "four", "five", "six")] * 15  # 90: texts of 40, 40, 10
    draws = np.random.default_rng(0)
    for positive, begins in (([3], {0}), ([41, 85], {40, 80}), ([], {0, 40, 80})):
        found = {prompt_with_some(names, positive, tokenizer, draws).numbers[0] for _ in range(30)}
        assert found == begins
