"""What CLIP-LIT's stages learn from: prompts that come apart, frozen guides, rankings whose rows may come anyhow."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.zoo.small_clips import built, files, mixed, pictures, total

from lumizoo.clip_lit.config import ClipLitConfig
from lumizoo.clip_lit.losses import ENHANCEMENT_LEVELS, RECONSTRUCTION_LEVELS, ranking
from lumizoo.clip_lit.network import enhanced_in_training
from lumizoo.clip_lit.pixels import clip_pixels
from lumizoo.clip_lit.prompts import negative_probability
from lumizoo.clip_lit.system import ClipLitSystem


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ClipLitConfig:
    return files(tmp_path_factory.mktemp("clips"))


def refinement(rows: int, results: int) -> dict[str, torch.Tensor]:
    """So many rows of each source, in turns; results between dark and bright."""
    batch = mixed(rows)
    stored = [pictures(2 * rows, 0.3 + 0.2 * number, seed=2 + number) for number in range(results)]
    return batch | {"results": torch.stack(stored, 1)}


@torch.no_grad()
def tell_apart(system: ClipLitSystem) -> None:
    """Move the second prompt by so little that scores lie between 0 and 1."""
    prompt = system.networks["prompts"].embedding_prompt
    prompt[1] += 0.01 * torch.randn(prompt.shape[1:], generator=torch.Generator().manual_seed(2))


def test_prompts_start_alike_and_from_words_x(config: ClipLitConfig) -> None:
    system = built(config, "prompts")
    first, second = system.networks["prompts"].embedding_prompt
    assert torch.equal(first, second) and first.any()
    table = system.networks["clip"].token_embedding.weight
    assert torch.equal(first, table[torch.tensor([49406, 343, 343, 343, 343, 49407, 0, 0])])


def test_classification_separates_them_and_the_score_of_the_pictures(config: ClipLitConfig) -> None:
    system, batch = built(config, "prompts"), mixed(4)
    optimizer = torch.optim.Adam(system.networks["prompts"].parameters(), lr=2e-2, weight_decay=1e-3)
    loss = total(system.losses("prompts", batch, 0))
    assert loss.item() == pytest.approx(0.6931, abs=1e-3)  # two like prompts tell nothing
    for step in range(60):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss = total(system.losses("prompts", batch, step))
    assert loss.item() < 0.3
    backlit = negative_probability(system._scores(batch["image"] / 255))
    assert ((backlit > 0.5) == (batch["source"] == 0)).all()


def test_the_enhancer_brightens_what_learned_prompts_call_backlit(config: ClipLitConfig) -> None:
    config, batch = replace(config, identity_weight=0.1), mixed(4)
    first = built(config, "prompts")
    optimizer = torch.optim.Adam(first.networks["prompts"].parameters(), lr=1e-4)
    for step in range(3):  # no further: such small towers are soon so sure that no gradient is left
        optimizer.zero_grad()
        total(first.losses("prompts", batch, step)).backward()
        optimizer.step()
    second = built(config, "enhance-1")
    learned = {name: value for name, value in first.networks.state_dict().items() if name.startswith("prompts.")}
    taken = second.carried(second.stages()[2], learned)
    assert taken.keys() == learned.keys() != set()
    second.networks.load_state_dict(taken, strict=False)
    enhancer = second.networks["enhancer"]
    torch.nn.init.constant_(enhancer.cond_add1.bias, 1.0)  # as after the reconstruction
    optimizer = torch.optim.Adam(enhancer.parameters(), lr=2e-3)
    scores, brightness = [], []
    for step in range(10):
        optimizer.zero_grad()
        terms = second.losses("enhancer", batch, step)
        total(terms).backward()
        optimizer.step()
        scores.append((terms["backlit"].sum / terms["backlit"].count).item())
        with torch.no_grad():
            brightness.append(float(enhanced_in_training(enhancer, batch["image"] / 255).mean()))
    assert scores[-1] < 0.7 * scores[0] and brightness[-1] > 1.2 * brightness[0]


@pytest.mark.parametrize("stage", ["prompts", "refine-2"])
def test_slots_behind_the_end_of_the_text_get_no_gradient(config: ClipLitConfig, stage: str) -> None:
    system = built(config, stage)
    tell_apart(system)
    total(system.losses("prompts", refinement(2, 2), 0)).backward()
    gradient = system.networks["prompts"].embedding_prompt.grad
    end = config.prompt_length + 1
    assert gradient[:, : end + 1].abs().amax(2).min() > 0
    assert not gradient[:, end + 1 :].any()


def test_pictures_are_made_smaller_without_antialiasing() -> None:
    columns = (torch.arange(64) % 4 % 3 == 0).float()  # half-way between the others, where samples fall, it is dark
    found = clip_pixels(columns.expand(1, 3, 64, 64), 16)
    black = clip_pixels(torch.zeros(1, 3, 16, 16), 16)
    assert torch.equal(found, black)


@pytest.mark.parametrize("stage", ["reconstruct", "enhance-1"])
def test_guides_stay_frozen_in_eval_mode_and_outside_of_checkpoints(config: ClipLitConfig, stage: str) -> None:
    system = built(config, stage)
    system.networks.train()
    guides = [one for one in ("clip", "identity") if one in system.networks]
    assert guides == (["clip", "identity"] if stage == "enhance-1" else ["identity"])
    before = {name: value.clone() for name, value in system.networks.state_dict().items()}
    total(system.losses("enhancer", mixed(2), 0)).backward()
    for name in guides:
        assert not any(one.training for one in system.networks[name].modules())
        assert all(value.grad is None for value in system.networks[name].parameters())
    assert all(torch.equal(value, before[name]) for name, value in system.networks.state_dict().items())
    player = next(one for one in system.stages() if one.name == stage).players[0]
    assert not set(guides) & set(player.networks)
    assert all(value.grad.any() for value in system.networks["enhancer"].parameters())
    assert system.networks["prompts"].embedding_prompt.grad is None


def test_steps_of_reconstruction_bring_the_picture_back(config: ClipLitConfig) -> None:
    system, batch = built(config, "reconstruct"), {"image": pictures(2, 0.3)}
    enhancer = system.networks["enhancer"]
    torch.nn.init.constant_(enhancer.cond_add1.bias, 0.6)
    optimizer = torch.optim.Adam(enhancer.parameters(), lr=1e-3)
    losses = []
    for step in range(8):
        optimizer.zero_grad()
        loss = total(system.losses("enhancer", batch, step))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("stage", "levels", "weight"),
    [("reconstruct", RECONSTRUCTION_LEVELS, 25.0), ("enhance-2", ENHANCEMENT_LEVELS, 0.9 * 25.0)],
)
def test_the_identity_term_is_a_sum_over_the_published_batch(
    config: ClipLitConfig, stage: str, levels: tuple[float, ...], weight: float
) -> None:
    system = built(config, stage)
    torch.nn.init.constant_(system.networks["enhancer"].cond_add1.bias, 0.6)
    image = pictures(8, 0.3)
    term = system.losses("enhancer", {"image": image}, 0)["identity"]
    given = image / 255
    tower, wanted = system.networks["identity"], 0.0
    with torch.no_grad():
        changed = enhanced_in_training(system.networks["enhancer"], given)
        maps = [tower(clip_pixels(one, tower.side)) for one in (changed, given)]
    for level, one, other in zip(levels, *maps, strict=True):
        wanted += weight * level * float(sum(((one[row] - other[row]) ** 2).mean() for row in range(8)))
    assert (term.weight * term.sum / term.count).item() == pytest.approx(wanted, rel=1e-4)
    halves = [system.losses("enhancer", {"image": half}, 0)["identity"] for half in image.split(4)]
    halved = sum((one.weight * one.sum / one.count).item() for one in halves) / 2
    assert halved == pytest.approx(wanted, rel=1e-4)  # as micro-batches are averaged


def test_the_score_of_enhanced_pictures_weighs_320(config: ClipLitConfig) -> None:
    system = built(config, "enhance-1")
    tell_apart(system)
    image = pictures(3, 0.3)
    term = system.losses("enhancer", {"image": image}, 0)["backlit"]
    with torch.no_grad():
        enhanced = enhanced_in_training(system.networks["enhancer"], image / 255)
        wanted = 320 * negative_probability(system._scores(enhanced)).mean()
    assert (term.weight * term.sum / term.count).item() == pytest.approx(float(wanted), rel=1e-5)


def ranked(system: ClipLitSystem, batch: dict[str, torch.Tensor]) -> float:
    """The loss of the card, pair by pair; stored results in the order of the batch."""
    image, results = batch["image"] / 255, batch["results"] / 255
    with torch.no_grad():
        dark = negative_probability(system._scores(image[batch["source"] == 0]))
        light = negative_probability(system._scores(image[batch["source"] == 1]))
        stored = [negative_probability(system._scores(one[batch["source"] == 0])) for one in results.unbind(1)]
    chain, margin = [dark[:, None], *(one[:, None] for one in stored)], 0.2 if len(stored) == 1 else 0.1
    value = ranking(chain[0], light[None], 0.9).mean() + ranking(chain[0], chain[1], 0.9).mean()
    for one, other in zip(chain[1:], [*chain[2:], light[None]], strict=True):
        value = value + ranking(one, other, margin).mean()
    return 200 * float(value)


@pytest.mark.parametrize("round_", [1, 2])
def test_refinement_ranks_rows_of_both_sources_in_any_order(config: ClipLitConfig, round_: int) -> None:
    system, batch = built(config, f"refine-{round_}"), refinement(3, round_)
    tell_apart(system)
    wanted = ranked(system, batch)
    terms = system.losses("prompts", batch, 0)
    assert total(terms).item() == pytest.approx(wanted, rel=1e-4) and wanted > 1
    order = torch.tensor([1, 5, 0, 2, 3, 4])
    moved = {name: value[order] for name, value in batch.items()}
    assert total(system.losses("prompts", moved, 0)).item() == pytest.approx(wanted, rel=1e-4)
    other = batch["results"].clone()
    other[1::2] = 255 - other[1::2]  # of well-lit rows: what stands there is no result
    assert total(system.losses("prompts", batch | {"results": other}, 0)).item() == pytest.approx(wanted, rel=1e-5)


def test_older_results_come_first_but_for_the_published_order(config: ClipLitConfig) -> None:
    batch, found = refinement(2, 2), []
    for published in (False, True):
        system = built(replace(config, published_order=published), "refine-2")
        tell_apart(system)
        found.append((system, total(system.losses("prompts", batch, 0)).item()))
    flipped = batch | {"results": batch["results"].flip(1)}
    (system, own), (_, published) = found
    assert own == pytest.approx(ranked(system, batch), rel=1e-4)
    assert published == pytest.approx(ranked(system, flipped), rel=1e-4)
    assert published > own + 5


@pytest.mark.parametrize("stage", ["prompts", "reconstruct", "enhance-1", "refine-2"])
def test_a_step_is_rehearsed_without_memory(config: ClipLitConfig, stage: str) -> None:
    from lumiray.train.rehearsal import rehearse
    from lumiray.train.without_memory import networks_without_memory

    system = ClipLitSystem(config)
    found = next(one for one in system.stages() if one.name == stage)
    networks_without_memory(system, found)
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in refinement(2, 2).items()}
    cost = rehearse(system, found, found.players[0], shapes, 1, 1, "bf16")
    assert cost.flops > 0 and cost.bytes > 0
