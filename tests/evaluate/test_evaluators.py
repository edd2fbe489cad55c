"""Evaluations are exact for any number of ranks and any tail, and equal on every rank.  The ranks are real ones."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from evaluation_sets import (
    TEMPLATES,
    WIDTH,
    EvaluationSet,
    Example,
    classifier_of,
    embed_texts,
    figures_of,
    on_ranks,
    random_set,
)
from processes import run_group

from lumiray.errors import UserError
from lumiray.evaluate.classes import Classes
from lumiray.evaluate.named import evaluators
from lumiray.evaluate.zero_shot import ZeroShotEvaluator, class_embeddings

ROW = [1.0, 0.0, 0.0, 0.0]
SETS = {
    "no tail": random_set(1, 12, 2, num_classes=7),
    "a tail": random_set(2, 13, 4, num_classes=6),
    "a tail of one": random_set(3, 9, 2, num_classes=9),
    "one batch for all ranks": random_set(4, 5, 8, num_classes=5),
    "unusable rows here and there": random_set(5, 17, 3, num_classes=6, bad=(0, 4, 5, 11, 16)),
    "the first of two ranks has no usable row": random_set(6, 12, 3, num_classes=6, bad=(0, 1, 2, 3, 4, 5)),
    "only one row is usable": random_set(7, 10, 2, num_classes=6, bad=(0, 1, 2, 3, 5, 6, 7, 8, 9)),
    "retrieval alone": random_set(8, 11, 3),
    "rows without any caption": replace(
        random_set(9, 10, 3, num_classes=6),
        examples=tuple(replace(one, texts=[]) for one in random_set(9, 10, 3, num_classes=6).examples),
    ),
    "no caption and no class": EvaluationSet((Example(ROW, []),) * 4, 3),
}
MISTAKES = {
    "no row has a class": (EvaluationSet((Example(ROW, [ROW]),) * 4, 3, ("cat", "dog")), "KEY.cls"),
    "a class without a name": (EvaluationSet((Example(ROW, [ROW], 5),) * 4, 4, ("cat", "dog")), "class 5, .* 0 to 1"),
}
CLASS_LISTS = [["cat"], ["cat", "dog"], [f"thing {number}" for number in range(5)], [f"x{n}" for n in range(12)]]


@pytest.fixture(scope="module", params=[2, 3])
def group(request: pytest.FixtureRequest) -> dict[str, Any]:
    sets = [*SETS.values(), MISTAKES["no row has a class"][0]]
    return run_group(on_ranks, request.param, sets, CLASS_LISTS)


def classes_of(one: EvaluationSet) -> torch.Tensor:
    return class_embeddings(embed_texts, one.class_names, TEMPLATES) if one.class_names else torch.empty(WIDTH, 0)


@pytest.mark.parametrize("name", SETS)
def test_one_process_gives_the_figures_of_the_full_matrices(name: str) -> None:
    assert figures_of(SETS[name]) == pytest.approx(SETS[name].expected(classes_of(SETS[name])))


@pytest.mark.parametrize("name", SETS)
def test_ranks_give_the_figures_of_one_process_each_of_them(group: dict[str, Any], name: str) -> None:
    number = list(SETS).index(name)
    for of_rank in group["figures"]:
        assert of_rank[number] == figures_of(SETS[name])


def test_every_rank_says_that_no_row_has_a_class(group: dict[str, Any]) -> None:
    assert all("KEY.cls" in of_rank[-1]["error"] for of_rank in group["figures"])


@pytest.mark.parametrize("number", range(len(CLASS_LISTS)))
def test_ranks_share_the_classes_and_get_the_classifier_of_one_process(group: dict[str, Any], number: int) -> None:
    alone = torch.tensor(classifier_of(CLASS_LISTS[number])["classifier"])
    found = [of_rank[number] for of_rank in group["classifiers"]]
    assert torch.allclose(torch.tensor(found[0]["classifier"]), alone, rtol=0, atol=1e-6)
    for one in found[1:]:
        assert one == found[0]  # ZeRO 3 needs equally many calls, too
    if len(CLASS_LISTS[number]) >= 2 * len(found):
        assert sum(found[0]["calls"]) < len(CLASS_LISTS[number]) * len(TEMPLATES)


def test_a_class_is_the_normalised_mean_of_its_normalised_templates() -> None:
    names = CLASS_LISTS[2]
    columns = []
    for name in names:
        filled = [template.replace("{}", name) for template in TEMPLATES]
        mean = functional.normalize(embed_texts(filled), dim=1).mean(0)
        columns.append(mean / mean.norm())
    found = class_embeddings(embed_texts, names, TEMPLATES)
    assert found.shape == (WIDTH, len(names))
    assert torch.allclose(found, torch.stack(columns, dim=1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", MISTAKES)
def test_class_numbers_that_do_not_fit_are_one_clear_mistake(name: str) -> None:
    wrong, words = MISTAKES[name]
    assert re.search(words, figures_of(wrong)["error"])


def test_a_class_number_of_a_masked_row_is_no_mistake() -> None:
    evaluator = ZeroShotEvaluator(torch.eye(WIDTH)[:, :2])
    batch = {"row": torch.tensor([0, 1]), "valid": torch.tensor([True, False]), "label": torch.tensor([1, 9])}
    evaluator.update({"image": torch.eye(WIDTH)[[1, 2]]}, batch)
    assert evaluator.compute()["zero_shot_top1"] == 1


@pytest.mark.parametrize(("value", "top1", "top5"), [(0.0, 0.1, 0.5), (torch.nan, 0.0, 0.0)])
def test_a_network_that_scores_every_class_alike_is_no_better_than_chance(
    value: float, top1: float, top5: float
) -> None:
    evaluator = ZeroShotEvaluator(torch.full((WIDTH, 10), value))
    batch = {"row": torch.arange(20), "valid": torch.ones(20, dtype=torch.bool), "label": torch.arange(20) % 10}
    evaluator.update({"image": torch.ones(20, WIDTH)}, batch)
    assert evaluator.compute() == {"zero_shot_top1": top1, "zero_shot_top5": top5}


def test_an_evaluation_that_does_not_exist_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UserError, match=r"no evaluation 'retreival'.*'retrieval'"):
        evaluators(["retreival"], Classes(("cat",), TEMPLATES), embed_texts)
