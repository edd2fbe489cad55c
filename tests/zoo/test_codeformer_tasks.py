"""CodeFormer for colourisation and inpainting: stages, what they see, how holes are filled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.zoo.codeformer_faces import SIZE, TINY, batch, built, face
from torch import Tensor

from lumiray.data.picture_file import Picture, png
from lumiray.system import Row, Term
from lumizoo.codeformer.config import CodeformerConfig
from lumizoo.codeformer.discolouring import discoloured, jittered
from lumizoo.codeformer.phases import phase_at
from lumizoo.codeformer.strokes import NARROW, WIDE, masked, vertices
from lumizoo.codeformer.system import CodeformerSystem

COLOURS, HOLES = (replace(TINY, task=task) for task in ("colourisation", "inpainting"))


def total(terms: dict[str, Term]) -> Tensor:
    return torch.stack([one.weight * one.sum / one.count for one in terms.values()]).sum()


def test_stages_follow_from_the_task() -> None:
    told = {
        task: [(one.name, one.start) for one in CodeformerSystem(CodeformerConfig(task=task)).stages()]
        for task in ("restoration", "colourisation", "inpainting")
    }
    assert told == {
        "restoration": [("vqgan", None), ("codes", "vqgan"), ("features", "codes")],
        "colourisation": [("vqgan", None), ("codes", "vqgan")],
        "inpainting": [("vqgan", None), ("inpainting", "vqgan")],
    }
    stage = CodeformerSystem(CodeformerConfig(task="inpainting")).stages()[1]
    own, discriminator = stage.players
    assert (stage.steps, stage.global_batch_size, own.ema) == (300_000, 12, 0.997)
    assert own.optimizer.lr == discriminator.optimizer.lr == 7e-5 and own.schedule.milestones == (250_000,)
    assert discriminator.start == 296_001


def test_inpainting_trains_codes_and_connections_at_once() -> None:
    system, given = built("inpainting", HOLES), batch()
    terms = system.losses("codeformer", given, 1)
    assert terms.keys() == {"code_feature", "cross_entropy", "code_accuracy", "l1"}
    terms = system.losses("codeformer", given, 2)
    assert terms["adversarial"].weight == 0.1 and "reconstruction" in given
    total(terms).backward()
    network = system.networks["codeformer"]
    learns = {name.split(".")[0] for name, value in network.named_parameters() if value.grad is not None}
    assert learns == {"position_emb", "encoder", "feat_emb", "ft_layers", "idx_pred_layer", "fuse_convs_dict"}
    assert total(system.losses("discriminator", given, 2)) > 0
    assert [system.moves(system.stages()[1].players[1], step) for step in range(4)] == [False, False, True, True]


def test_strokes_of_inpainting_widen() -> None:
    config = CodeformerConfig(task="inpainting")
    given = [phase_at("inpainting", iteration - 1, config) for iteration in (1, 200_000, 200_001, 300_000)]
    assert [one.given for one in given] == ["masked", "masked", "masked_widely", "masked_widely"]
    assert {one.fidelity for one in given} == {1.0}


def test_inpainting_takes_over_the_autoencoder_and_its_discriminator() -> None:
    first = built("vqgan", HOLES, seed=1)
    system = CodeformerSystem(HOLES)
    stage = system.stages()[1]
    own = system.build(stage).state_dict()
    found = system.carried(stage, first.networks.state_dict())
    system.networks.load_state_dict(own | found)
    left = {name.split(".")[1] for name in own.keys() - found.keys()}
    assert left == {"position_emb", "feat_emb", "ft_layers", "idx_pred_layer", "fuse_convs_dict"}
    assert system.losses("codeformer", batch(), 0)


def test_holes_are_filled_and_the_rest_stays() -> None:
    system = built("inpainting", HOLES)
    picture = face(60) // 2
    picture[20:30, 10:40] = 255
    picture[0, 0] = (255, 255, 254)  # nearly white
    filled = system.restore(picture)
    inside = np.zeros((60, 60), bool)
    inside[20:30, 10:40] = True
    assert np.array_equal(filled[~inside], picture[~inside])
    assert not np.array_equal(filled[inside], picture[inside])
    assert np.array_equal(filled, system.restore(picture, 1.0))
    assert not np.array_equal(filled, system.restore(picture, 0.0))


def prepared(config: CodeformerConfig, stage: str, seed: int | None = 0) -> dict[str, np.ndarray]:
    system = CodeformerSystem(config)
    one = next(one for one in system.stages() if one.name == stage)
    row = Row("key", {"png": png(Picture(face() // 2))}, 3)
    return system.prepare(one, row, None if seed is None else np.random.default_rng(seed))


@pytest.mark.parametrize("seed", [None, 0])
def test_rows_of_inpainting_have_two_covered_versions(seed: int | None) -> None:
    found, again = (prepared(HOLES, "inpainting", seed) for _ in range(2))
    assert tuple(found) == ("clean", "masked", "masked_widely")
    for name, value in found.items():
        assert (value.dtype, value.shape) == (np.uint8, (3, SIZE, SIZE))
        assert np.array_equal(value, again[name])
        white = (value == 255).all(0)
        assert white.any() == (name != "clean")
        assert np.array_equal(value[:, ~white], found["clean"][:, ~white])


def test_wide_strokes_cover_more() -> None:
    black = np.zeros((128, 128, 3), np.uint8)
    shares = [
        np.mean([(masked(black, widths, np.random.default_rng(seed)) == 255).mean() for seed in range(30)])
        for widths in (NARROW, WIDE)
    ]
    assert 0.05 < shares[0] < shares[1] < 0.95


def test_a_stroke_turns_to_and_fro_inside_the_picture() -> None:
    lengths = set()
    for seed in range(60):
        corners = vertices(100, 200, np.random.default_rng(seed))
        assert corners.dtype == np.int32 and 8 <= len(corners) <= 27
        assert corners.min() >= 0 and corners[:, 0].max() < 200 and corners[:, 1].max() < 100
        assert np.hypot(*np.diff(corners, axis=0).T).max() <= np.hypot(100, 200) / 4 + 2
        lengths.add(len(corners))
    assert min(lengths) <= 10 and max(lengths) >= 25


def test_colours_are_lost_as_often_as_published() -> None:
    picture = face() // 2 + 60
    same = grey = 0
    for seed in range(400):
        found = discoloured(picture, np.random.default_rng(seed))
        assert (found.dtype, found.shape) == (picture.dtype, picture.shape)
        same += np.array_equal(found, picture)
        grey += (np.ptp(found, axis=2) == 0).all()
    assert 160 < same < 230  # 0.7 * 0.99 * 0.7 = 0.485
    assert grey < 20
    assert np.array_equal(*(discoloured(picture, np.random.default_rng(5)) for _ in range(2)))


def test_jitter_changes_all_four_properties() -> None:
    colours = torch.from_numpy(face().transpose(2, 0, 1) / np.float32(255))
    found = torch.stack([jittered(colours, np.random.default_rng(seed)) for seed in range(60)])
    brightness = found.mean((1, 2, 3)) / colours.mean()
    assert brightness.min() < 0.75 and brightness.max() > 1.25
    saturation = (found.amax(1) - found.amin(1)).mean((1, 2)) / (colours.amax(0) - colours.amin(0)).mean()
    assert saturation.min() < 0.3 and saturation.max() > 1.1


def test_only_colourisation_discolours() -> None:
    differ = [
        not np.array_equal(prepared(COLOURS, "codes", seed)["degraded"], prepared(TINY, "codes", seed)["degraded"])
        for seed in range(20)
    ]
    assert any(differ) and not all(differ)
    assert built("codes", COLOURS).restore(face()).shape == (SIZE, SIZE, 3)
