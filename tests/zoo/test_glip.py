"""GLIP as a system: it learns to find squares by their colours; grounding, detection, and what a run relies on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.zoo.glip_squares import COLOURS, batch_of, built, learn, prepared, row, squares, tiny
from torchvision.ops import box_iou

import lumizoo
from lumiray.errors import UserError
from lumiray.system import Record
from lumizoo.glip.detect import Detections, Rules, best, detections
from lumizoo.glip.head import Predictions
from lumizoo.glip.system import GlipSystem, cropped, in_original
from lumizoo.glip.use import checked_spans, phrases_in, words_of


def test_rates_and_decay_follow_the_names_of_parameters(tmp_path: Path) -> None:
    system = built(tiny(tmp_path))
    stage = system.stages()[0]
    assert (stage.record, stage.steps, stage.global_batch_size) == (Record.GROUNDING, 684_375, 64)
    (player,) = stage.players
    assert (player.ema, player.schedule.milestones, player.schedule.factor) == (0.999, (0.67, 0.89), 0.1)
    factors = {
        "glip.backbone.body.layers.0.blocks.0.attn.qkv.weight": 1.0,
        "glip.backbone.body.layers.0.blocks.0.attn.relative_position_bias_table": 2.0,
        "glip.language_backbone.body.model.embeddings.word_embeddings.weight": 0.1,
        "glip.language_backbone.body.model.embeddings.LayerNorm.bias": 0.2,
        "glip.rpn.head.dyhead_tower.1.attention.self.query.weight": 1.0,  # the tower's own text layer
        "glip.rpn.head.dyhead_tower.1.attention.self.query.bias": 2.0,
        "glip.rpn.head.bias_lang": 2.0,
        "glip.rpn.head.log_scale": 1.0,
    }
    names = {name for name, _ in system.networks.named_parameters()}
    assert factors.keys() <= names
    for name, factor in factors.items():
        assert player.lr_factors.get(name, 1.0) == pytest.approx(factor), name
    assert player.no_decay == {name for name in names if "bias" in name}
    assert built(tiny(tmp_path, ema_decay=0.0)).stages()[0].players[0].ema is None


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("a cat. a red ball", ["a cat", "a red ball"]),
        ("a cat . a red ball . ", ["a cat", "a red ball"]),
        ("a cat on a mat", ["a cat on a mat"]),
        ("version 2.5 of it. dog.", ["version 2.5 of it", "dog"]),
        (". . ", []),
    ],
)
def test_dots_divide_phrases(text: str, phrases: list[str]) -> None:
    assert [words_of(text, spans) for spans in phrases_in(text)] == phrases


def test_spans_of_a_user_are_one_or_several_for_a_phrase() -> None:
    text = "red square of blue"
    assert checked_spans(text, [(0, 3), [(0, 3), (14, 18)]]) == [[(0, 3)], [(0, 3), (14, 18)]]
    assert words_of(text, [(0, 3), (14, 18)]) == "red blue"
    for wrong in ((0, 19), (3, 3), (-1, 2)):
        with pytest.raises(UserError, match=r"The span .* is not \[begin, end\) within the text's 18 characters"):
            checked_spans(text, [wrong])


def predictions(alignment: list[list[float]], centreness: list[float]) -> Predictions:
    """Of the three places of a finest level of 1 x 3 and of one place on each other level, which score nothing."""
    nothing = [-20.0] * len(alignment[0])
    return Predictions(
        ((1, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
        torch.zeros(1, 7, 4),
        torch.tensor([[*centreness, 0.0, 0.0, 0.0, 0.0]]),
        torch.tensor([[*alignment, *[nothing] * 4]]),
    )


def logit(share: float) -> float:
    return float(torch.tensor(share).logit())


def test_scores_are_means_over_tokens_with_centreness_under_a_root() -> None:
    words = torch.tensor([[True, True, False], [False, False, True]])
    tokens = [[logit(0.8), logit(0.4), logit(0.04)], [-20.0] * 3, [-20.0] * 3]
    (found,) = detections(predictions(tokens, [logit(0.5), 0.0, 0.0]), words, (40, 60), Rules())
    assert found.labels.tolist() == [1]  # 0.04 is behind the threshold
    assert float(found.scores) == pytest.approx((0.6 * 0.5) ** 0.5)
    assert found.boxes.tolist() == [[0, 0, 35, 35]]  # the anchor -28 ... 35, cut to the picture


def test_the_threshold_is_that_of_the_class_before_centreness() -> None:
    tokens = [[logit(0.06)], [logit(0.049)], [-20.0]]
    (found,) = detections(predictions(tokens, [logit(0.01)] * 3), torch.tensor([[True]]), (99, 99), Rules())
    assert found.scores.tolist() == pytest.approx([(0.06 * 0.01) ** 0.5])


def test_boxes_upon_a_better_one_of_their_class_are_left_out_by_inclusive_overlap() -> None:
    # 3 x 4 pixels within 5 x 4: 12 of 20 is not above 0.6, though by corners 2 x 3 of 4 x 3 would be less
    boxes = torch.tensor([[0.0, 0, 4, 3], [0, 0, 2, 3], [0, 0, 3, 3], [0, 0, 3, 3]])
    given = Detections(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([1, 1, 1, 2]))
    assert best(given, Rules(overlap=0.61)).scores.tolist() == pytest.approx([0.9, 0.8, 0.6])
    assert best(given, Rules(overlap=0.59)).scores.tolist() == pytest.approx([0.9, 0.6])
    assert best(given, Rules(overlap=0.61, limit=2)).labels.tolist() == [1, 1]


def test_boxes_go_back_by_the_ratio_of_sides() -> None:
    given = Detections(torch.tensor([[2.0, 4, 8, 10]]), torch.ones(1), torch.ones(1))
    assert in_original(given, (20, 60), (40, 90)).boxes[0].tolist() == pytest.approx([4 / 3, 2, 16 / 3, 5])


def test_pictures_are_cropped_to_what_their_micro_batch_asks_for() -> None:
    pictures = torch.zeros(2, 3, 96, 160)
    assert cropped(pictures, torch.tensor([[40, 70], [64, 33]])).shape == (2, 3, 64, 96)
    assert cropped(pictures, torch.tensor([[65, 1], [2, 129]])).shape == (2, 3, 96, 160)


def ready(folder: Path, **changed: Any) -> GlipSystem:
    """A fresh system in use; what it finds is of no worth, but something."""
    system = built(tiny(folder, **changed))
    system.networks["glip"].rpn["head"].bias0.data.fill_(0.0)
    system.networks.eval()
    return system


def test_any_kind_of_picture_is_grounded_alike_in_its_own_pixels(tmp_path: Path) -> None:
    system = ready(tmp_path)
    picture, _ = squares(np.random.default_rng(0), 40, 50)
    found = system.ground(picture, "red. a blue square", threshold=0.0)
    assert len(found.boxes) == len(found.scores) == len(found.labels) == len(found.phrases) > 0
    assert found.scores.diff().max() <= 0 and not found.boxes.requires_grad
    assert set(found.phrases) <= {"red", "a blue square"}
    assert all(["red", "a blue square"][label - 1] == one for label, one in zip(found.labels, found.phrases))
    assert found.boxes.min() >= 0 and found.boxes[:, 2].max() <= 50 and found.boxes[:, 3].max() <= 40
    kinds = (
        Image.fromarray(picture),
        torch.from_numpy(picture).permute(2, 0, 1),
        torch.from_numpy(picture).permute(2, 0, 1) / 255,
    )
    for kind in kinds:
        again = system.ground(kind, "red. a blue square", threshold=0.0)
        assert torch.equal(again.boxes, found.boxes) and again.phrases == found.phrases
    few = system.ground(picture, "red. a blue square", threshold=float(found.scores[2]))
    assert len(few.scores) == int((found.scores > found.scores[2]).sum())


def test_given_spans_are_the_phrases(tmp_path: Path) -> None:
    system = ready(tmp_path)
    picture, _ = squares(np.random.default_rng(0))
    found = system.ground(picture, "a red square of blue", spans=[(2, 5), [(16, 20)]], threshold=0.0)
    assert set(found.phrases) == {"red", "blue"}


@pytest.mark.parametrize(
    ("picture", "told"),
    [
        (np.zeros((4, 4), np.uint8), r"not uint8 of shape \(4, 4\)"),
        (np.zeros((4, 4, 3), np.float32), "not float32 of shape"),
        (torch.zeros(1, 3, 4, 4), "not torch.float32 of shape"),
        (torch.full((3, 4, 4), 2.0), r"do not lie in \[0, 1\]"),
        (torch.full((3, 4, 4), float("nan")), r"do not lie in \[0, 1\]"),
        (np.zeros((0, 4, 3), np.uint8), "A picture is"),
        ("cat.jpg", "not str"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path: Path, picture: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        ready(tmp_path).ground(picture, "red")


def test_what_cannot_be_looked_for_is_refused(tmp_path: Path) -> None:
    system = ready(tmp_path)
    picture, _ = squares(np.random.default_rng(0))
    with pytest.raises(UserError, match="The text has no phrase"):
        system.ground(picture, " . ")
    with pytest.raises(UserError, match="The phrase 'blue' has no token among the first 16"):
        system.ground(picture, ". ".join(["red"] * 7 + ["blue"]))
    with pytest.raises(UserError, match=r"The class name '\(all\)' becomes no token"):
        system.detect(picture, ["red", "(all)"])
    for names in ([], "red"):
        with pytest.raises(UserError, match="The class names are a list of one or more names"):
            system.detect(picture, names)


def test_classes_that_do_not_fit_into_one_text_are_asked_for_in_several(tmp_path: Path) -> None:
    system = ready(tmp_path, max_tokens=64)
    picture, _ = squares(np.random.default_rng(0))
    names = ["one", "two", "three", "four"] * 11 + ["blue"]  # 40 and 5
    found = system.detect(picture, names, threshold=0.0, limit=400)
    assert len(found.labels) > 100 and set(found.labels.tolist()) > {1, 41, 45}
    assert all(names[label - 1] == one for label, one in zip(found.labels, found.phrases))
    last = system.detect(picture, names[40:], threshold=0.0, limit=400)
    kept = found.labels > 40
    assert torch.allclose(found.scores[kept], last.scores[: int(kept.sum())], atol=1e-5)


def test_what_evaluation_compares_is_what_a_user_finds(tmp_path: Path) -> None:
    system = ready(tmp_path)
    rng = np.random.default_rng(0)
    pictures = [squares(rng, height, 60)[0] for height in (40, 42)]  # both are padded to 64 x 96
    names = list(COLOURS)
    rows = [
        row(pictures[0], classes=names, boxes=[[1, 2, 9, 9], [5, 5, 20, 20]], labels=[2, 0]),
        row(pictures[1], classes=names, boxes=[], labels=[]),
    ]
    batch = batch_of(system, [prepared(system, one, None) for one in rows])
    with torch.no_grad():
        found = system.embed(batch)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "boxes": (2, 100, 4),
        "scores": (2, 100),
        "labels": (2, 100),
        "true_boxes": (2, 2, 4),
        "true_labels": (2, 2),
        "judged": (2, 3),
    }
    assert found["true_labels"].tolist() == [[3, 1], [0, 0]]
    assert found["true_boxes"][0].tolist() == [[1, 2, 8, 8], [5, 5, 19, 19]]
    for number, picture in enumerate(pictures):
        own = system.detect(picture, names, threshold=0.0)
        count = len(own.scores)
        assert torch.allclose(found["scores"][number, :count], own.scores, atol=1e-4)
        assert not found["labels"][number, count:].any() and not found["scores"][number, count:].any()


def test_it_learns_to_find_squares_by_the_names_of_their_colours(tmp_path: Path) -> None:
    system = built(tiny(tmp_path, swin_depths=(1, 1, 1, 1)))
    rng = np.random.default_rng(0)
    losses = learn(system, rng, 60)
    assert np.mean(losses[-5:]) < 0.6 * losses[0]
    right = 0
    for _ in range(5):  # pictures that it has not seen
        picture, fields = squares(rng)
        found = system.ground(picture, fields["caption"], threshold=0.0)
        for number, box in enumerate(fields["boxes"]):
            own = found.boxes[found.labels == number + 1][:1]  # the best one of this colour
            right += int((box_iou(own, torch.tensor([box], dtype=torch.float32)) > 0.5).sum())
    assert right >= 8, f"{right} of 10 squares were found"


def test_micro_batches_have_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    from lumiray.train.terms import Totals, combine

    rng = np.random.default_rng(0)
    gradients = []
    pairs = [squares(rng) for _ in range(3)]
    pairs[2][1].update(boxes=pairs[2][1]["boxes"][:1], spans=pairs[2][1]["spans"][:1])  # counts differ
    for sizes in ((3,), (1, 2)):
        system = built(tiny(tmp_path))
        system.networks.eval()
        rows = [prepared(system, row(picture, **fields), 5) for picture, fields in pairs]
        micros = [batch_of(system, [rows.pop(0) for _ in range(size)]) for size in sizes]
        counts = [system.counts("glip", one) for one in micros]
        totals = Totals({name: sum(one[name].float() for one in counts) for name in counts[0]}, 1, len(micros))
        for one in micros:
            combine(system.losses("glip", one, 0), 1 / len(micros), torch.device("cpu"), totals).loss.backward()
        gradients.append([value.grad for value in system.networks.parameters() if value.grad is not None])
    assert all(torch.allclose(*pair, rtol=1e-3, atol=1e-6) for pair in zip(*gradients, strict=True))


def test_a_step_is_rehearsed_without_memory(tmp_path: Path) -> None:
    from lumiray.train.rehearsal import rehearse
    from lumiray.train.without_memory import networks_without_memory

    system = GlipSystem(tiny(tmp_path, grad_checkpointing=True))
    stage = system.stages()[0]
    networks_without_memory(system, stage)
    shapes = {
        "picture": ((2, 3, 64, 96), torch.uint8),
        "size": ((2, 2), torch.int32),
        "boxes": ((2, 4, 4), torch.float32),
        "count": ((2,), torch.int32),
        "words": ((2, 4, 16), torch.bool),
        "tokens": ((2, 1, 16), torch.int32),
        "mask": ((2, 1, 16), torch.bool),
    }
    cost = rehearse(system, stage, stage.players[0], shapes, 1, 1, "bf16")
    assert cost.flops > 0 and cost.bytes > 0


def test_it_is_loaded_by_its_name_ready_for_use(tmp_path: Path) -> None:
    found = lumizoo.load("glip", **dataclasses.asdict(tiny(tmp_path)))
    assert not found.networks.training
    assert found.detect(squares(np.random.default_rng(0))[0], ["red"]).phrases == []  # fresh: nothing is likely
