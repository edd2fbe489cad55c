"""What a population may vary: that under which a checkpoint still is one of the same run."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from tests.conftest import TINY as TINY_CLIP
from tests.settings import default_job

from lumiray.errors import UserError
from lumiray.tune.changeable import check_changeable
from lumiray.tune.options import SearchOptions, check_options
from lumiray.tune.scale import from_unit, nearest, to_unit
from lumiray.tune.space import Axis, Choice, Interval, Space, Whole
from lumiray.tune.space_file import find_space

LOG, WHOLE = Interval(1e-4, 1e-2, log=True), Whole(2, 12, 4)


def job(slug: str = "cidnet", **system: object):  # type: ignore[no-untyped-def]
    found = default_job(slug)
    return replace(found, system=replace(found.system, **system))


def refused(axis: Axis, slug: str = "cidnet", scheduler: str = "pbt", **system: object) -> str:
    with pytest.raises(UserError) as error:
        check_changeable(Space((axis,)), job(slug, **system), scheduler, "space.yaml")
    return str(error.value)


def test_numbers_of_the_optimizer_weights_of_losses_and_augmentation_may_change() -> None:
    axes = (
        Axis("lr", LOG),
        Axis("optimizer.betas", Choice(([0.9, 0.99], [0.9, 0.999]))),
        Axis("engine.clip_norm", Interval(0.1, 1.0)),
        Axis("ssim_weight", Interval(0.0, 2.0)),
        Axis("random_gamma", Choice((False, True))),
        Axis("crop_size", Whole(64, 128, 8)),  # the network takes crops of any size
    )
    check_changeable(Space(axes), job(perceptual_weight=0.0), "pbt", "space.yaml")
    jitter = Axis("color_jitter_prob", Interval(0.0, 1.0))
    check_changeable(Space((jitter,)), job("clip", model=TINY_CLIP), "pbt", "space.yaml")


def test_a_space_that_a_system_ships_may_be_a_populations() -> None:
    check_changeable(find_space("cidnet", None)[0], job(perceptual_weight=0.0), "pbt", "cidnet's space.yaml")


@pytest.mark.parametrize(
    ("field", "over", "why"),
    [
        ("steps", Whole(10, 20), "how the learning rate goes over the whole run"),
        ("warmup", Whole(0, 20), "how the learning rate goes over the whole run"),
        ("optimizer.schedule", Choice(("cosine", "constant")), "how the learning rate goes over the whole run"),
        ("optimizer.name", Choice(("adamw", "sgd")), "what a checkpoint holds"),
        ("finetune.adapter_rank", Whole(2, 4), "what a checkpoint holds"),
        ("precision", Choice(("fp32", "bf16")), "how its numbers are computed"),
        ("global_batch_size", Whole(8, 16, 8), "which rows come at which step"),
        ("data.group_rows", Whole(4096, 8192, 4096), "which rows come at which step"),
        ("seed", Whole(0, 2), "which rows come at which step"),
        ("channels", Choice(([4, 4, 8, 8], [8, 8, 8, 8])), "the networks' tensors (cidnet."),
        ("norm", Choice((False, True)), "the networks' tensors (cidnet."),
        ("weights", Choice((None, "a.pth")), "what the first step begins with"),
    ],
)
def test_what_a_checkpoint_or_the_plan_depends_on_stays(field: str, over: Choice | Whole, why: str) -> None:
    said = refused(Axis(field, over), perceptual_weight=0.0)
    assert f"space.yaml: {field} cannot change within a run, as --scheduler pbt would have it: it decides " in said
    assert why in said
    assert "search it with --scheduler asha" in said


def test_a_system_decides_what_stays_by_what_it_builds_and_declares() -> None:
    assert "tensors (clip." in refused(Axis("image_size", Whole(32, 64, 32)), "clip", model=TINY_CLIP)
    assert "tensors (clip." in refused(Axis("loss", Choice(("softmax", "sigmoid"))), "clip", model=TINY_CLIP)
    said = refused(Axis("decay_rule", Choice(("release-3", "head"))), "clip", model=TINY_CLIP)
    assert "what the stage is: its players, their optimizers" in said


def test_conditions_and_choices_that_a_scheduler_cannot_follow_are_refused() -> None:
    said = refused(Axis("ssim_weight", Interval(0, 1), when=(("random_gamma", (True,)),)))
    assert "ssim_weight depends on other fields" in said
    assert "random_gamma is a choice, and --scheduler pb2 models numbers" in refused(
        Axis("random_gamma", Choice((False, True))), scheduler="pb2"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "tpe"}, "which tpe cannot follow: leave out --algorithm"),
        ({"algorithm": "grid"}, "which grid cannot follow: leave out --algorithm"),
        ({"metric": "psnr,ssim"}, "leave out the scheduler, or name one metric"),
        ({"trials": 1}, "a population has at least 2"),
        ({"grace": 3}, "--grace 3 is not a multiple of --evaluate.every 2"),
        ({"learn_from": "studies/a"}, "--learn-from needs --algorithm tpe"),
        ({"scheduler": "pb2"}, "pip install 'lumiray[pb2]'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, object], message: str
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)  # as where it is not installed
    found = default_job("cidnet")
    run = replace(found.run, val_shards="held-out", evaluate=replace(found.run.evaluate, every=2))
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        check_options(SearchOptions(**{"metric": "psnr", "scheduler": "pbt", **options}), replace(found, run=run))  # type: ignore[arg-type]
    assert SearchOptions(scheduler="pbt").source == "random"
    assert SearchOptions().source == "tpe"


def test_values_stay_on_their_axes() -> None:
    assert [nearest(WHOLE, one) for one in (-3, 3.9, 4.1, 11, 99)] == [2, 2, 6, 10, 10]
    assert nearest(LOG, 0.5) == 1e-2
    assert nearest(Choice((1, 8)), 8) == 8
    for over, values in ((LOG, (1e-4, 1e-3, 1e-2)), (Interval(-1.0, 3.0), (-1.0, 0.5, 3.0)), (WHOLE, (2, 6, 10))):
        assert [from_unit(over, to_unit(over, one)) for one in values] == pytest.approx(values)
    assert to_unit(LOG, 1e-3) == pytest.approx(0.5)
