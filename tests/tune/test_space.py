"""Spaces: every way to write one, and one clear message for every way to get it wrong."""

from __future__ import annotations

import pytest
from tests.settings import default_job

from lumiray.errors import UserError
from lumiray.registry import folder, slugs
from lumiray.tune.space import Axis, Choice, Interval, Space, Whole, check_space, with_values
from lumiray.tune.space_file import find_space, read_space

WRITTEN = """
lr: {loguniform: [1e-4, 1e-2]}
l1_weight: {uniform: [0.5, 2]}
crop_size: {int: [64, 256], step: 8}
channels: {choice: [[8, 8, 16, 16], [36, 36, 72, 144]]}
optimizer.schedule: {choice: [cosine, constant-cooldown]}
optimizer.cooldown: {int: [10, 50], when: {optimizer.schedule: constant-cooldown}}
"""
MEANT = Space(
    (
        Axis("lr", Interval(1e-4, 1e-2, log=True)),
        Axis("l1_weight", Interval(0.5, 2.0)),
        Axis("crop_size", Whole(64, 256, 8)),
        Axis("channels", Choice(([8, 8, 16, 16], [36, 36, 72, 144]))),
        Axis("optimizer.schedule", Choice(("cosine", "constant-cooldown"))),
        Axis("optimizer.cooldown", Whole(10, 50), (("optimizer.schedule", ("constant-cooldown",)),)),
    )
)


def test_yaml_and_python_say_the_same() -> None:
    space = read_space(WRITTEN, "s")
    assert space == MEANT
    check_space(space, default_job("cidnet"), "s")


def test_values_stand_in_the_job_as_its_own_types() -> None:
    job = with_values(default_job("cidnet"), {"lr": 1e-3, "channels": [8, 8, 16, 16], "optimizer.betas": [0.8, 0.9]})
    assert (job.run.lr, job.system.channels, job.run.optimizer.betas) == (1e-3, (8, 8, 16, 16), (0.8, 0.9))
    assert with_values(job, {}) == job


def test_a_conditional_axis_applies_where_its_condition_holds() -> None:
    axis = MEANT.axes[-1]
    assert axis.applies({"optimizer.schedule": "constant-cooldown"})
    assert not axis.applies({"optimizer.schedule": "cosine"})
    assert not axis.applies({})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lrr: {uniform: [0, 1]}", "s: cidnet has no setting 'lrr'. Did you mean 'lr'"),
        ("optimizer.wieght_decay: {uniform: [0, 1]}", "Did you mean 'optimizer.weight_decay'"),
        ("output: {choice: [a, b]}", "s: output stays the same in all trials"),
        ("evaluate.every: {int: [1, 5]}", "s: evaluate.every stays the same"),
        ("warmup: {uniform: [0, 10]}", "s: warmup is 0.0; it must be a whole number"),
        ("lr: {choice: [fast]}", "s: lr is 'fast'; it must be a number"),
        ("precision: {choice: [fp32, fp8]}", "s: precision is 'fp8'; it must be one of fp32, bf16, fp16"),
        ("crop_size: {int: [64, 128]}", "--crop-size is 65; it must be a multiple of 8"),
        ("lr: {loguniform: [0, 1]}", "lr begins at 0.0; a logarithmic interval begins above 0"),
        ("lr: {uniform: [1, 1]}", "lr goes from 1.0 to 1.0; the second must be larger"),
        ("lr: {unifrom: [0, 1]}", "s: lr: there is no 'unifrom'; there are .* Did you mean 'uniform'"),
        ("lr: {uniform: [0, 1], step: 2}", "only int has a step"),
        ("lr: {uniform: [0, .inf]}", "s: lr: inf is not a number"),
        ("warmup: {int: [0, 2.5]}", "s: warmup: 2.5 is not a whole number"),
        ("lr: {choice: []}", "lr has no values to choose from"),
        ("lr: 3", "s: lr must be one of uniform, loguniform, int, choice"),
        ("lr: {uniform: 3}", r"s: lr: uniform must be \[LOW, HIGH\]"),
        ("lr: {uniform: [0, 1], when: {warmup: 3}}", "lr depends on warmup, which is not varied above it"),
        ("- lr", "s: must be a mapping of fields"),
        ("{}", "s varies nothing"),
        ("lr: [", "s: is no YAML"),
    ],
)
def test_what_is_wrong_is_said_with_field_and_mend(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_space(read_space(text, "s"), default_job("cidnet"), "s")


@pytest.mark.parametrize("slug", [slug for slug in slugs() if (folder(slug) / "space.yaml").exists()])
def test_the_space_that_a_system_ships_fits_it(slug: str) -> None:
    space, source = find_space(slug, None)
    check_space(space, default_job(slug), source)


def test_a_space_that_is_not_there_is_said() -> None:
    with pytest.raises(UserError, match=r"--space nowhere\.yaml: cannot be read"):
        find_space("cidnet", "nowhere.yaml")
