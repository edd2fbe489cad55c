"""Published recipes with a user's values in place: optimizer, schedule, learning rate by batch and by step."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from lumiray.config import OptimizerConfig, RunConfig
from lumiray.errors import UserError
from lumiray.system import Optimizer, Player, Record, Schedule, Stage
from lumiray.train.recipe import check_recipe, resolved_player, run_length, scaled_lr
from lumiray.train.schedule import NAMES, check_schedule, learning_rate
from lumiray.train.sizes import Sizes

PEAK, STEPS = 0.5, 40
PLAYER = Player("net", ("net",), Optimizer("adamw", 4e-3, (0.8, 0.9), 1e-7, 0.3), Schedule("cosine", warmup=6))
STAGE = Stage("a", Record.PAIR, (PLAYER,), global_batch_size=100)


def rates(schedule: Schedule, steps: int = STEPS) -> list[float]:
    check_schedule(schedule, steps)
    return [learning_rate(schedule, PEAK, step, steps) for step in range(steps)]


@pytest.mark.parametrize(
    "schedule",
    [Schedule(name, warmup, 10 if name == "constant-cooldown" else 0) for name in NAMES for warmup in (0, 1, 7, 30)],
)
def test_every_schedule_rises_in_equal_steps_to_its_peak_and_never_passes_it(schedule: Schedule) -> None:
    found = rates(schedule)
    assert found[: schedule.warmup] == pytest.approx([PEAK * (n + 1) / schedule.warmup for n in range(schedule.warmup)])
    after = found[schedule.warmup :]
    assert after[0] == PEAK
    assert all(later <= earlier for earlier, later in pairwise(after))
    assert min(found) > 0  # no step is lost


@pytest.mark.parametrize("warmup", [0, 8])
def test_cosine_is_at_half_its_peak_half_way_and_would_reach_zero_after_the_last_step(warmup: int) -> None:
    schedule = Schedule("cosine", warmup)
    found = rates(schedule)
    assert found[warmup + (STEPS - warmup) // 2] == pytest.approx(PEAK / 2)
    assert learning_rate(schedule, PEAK, STEPS, STEPS) == pytest.approx(0, abs=1e-12)


def test_constant_stays_and_a_cooldown_falls_to_its_end_by_its_power() -> None:
    assert set(rates(Schedule("constant"))) == {PEAK}
    linear = rates(Schedule("constant-cooldown", 5, cooldown=10, cooldown_end=0.1))
    assert set(linear[5:31]) == {PEAK}
    assert linear[30:] == pytest.approx([0.1 + (PEAK - 0.1) * (1 - n / 10) for n in range(10)])
    square = rates(Schedule("constant-cooldown", 5, cooldown=10, cooldown_power=2.0))
    assert square[35] == pytest.approx(PEAK * 0.25)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Schedule("cosin"), "no schedule 'cosin'; there are cosine, constant, constant-cooldown"),
        (Schedule("cosine", warmup=41), "--warmup 41 is longer than the run's 40 steps"),
        (Schedule("constant-cooldown", 30), "--optimizer.cooldown 0 must lie between 1 and the 10 steps"),
        (Schedule("constant-cooldown", 30, 11), "--optimizer.cooldown 11 must lie between 1 and the 10 steps"),
    ],
)
def test_a_schedule_that_does_not_fit_the_run_is_refused(schedule: Schedule, words: str) -> None:
    with pytest.raises(UserError) as refused:
        check_schedule(schedule, STEPS)
    assert words in str(refused.value)
    check_schedule(Schedule("constant-cooldown", 30, 10), STEPS)
    check_schedule(Schedule("cosine", 40), STEPS)


def test_a_recipe_without_options_is_the_published_one() -> None:
    assert resolved_player(PLAYER, RunConfig()) == PLAYER


@pytest.mark.parametrize(
    ("run", "field", "value"),
    [
        (RunConfig(lr=0.0), "lr", 0.0),
        (RunConfig(optimizer=OptimizerConfig(name="sgd")), "name", "sgd"),
        (RunConfig(optimizer=OptimizerConfig(betas=(0.1, 0.2))), "betas", (0.1, 0.2)),
        (RunConfig(optimizer=OptimizerConfig(eps=0.0)), "eps", 0.0),
        (RunConfig(optimizer=OptimizerConfig(weight_decay=0.0)), "weight_decay", 0.0),
    ],
)
def test_one_value_of_the_user_replaces_one_published_value(run: RunConfig, field: str, value: object) -> None:
    found = resolved_player(PLAYER, run).optimizer
    assert {name: one for name, one in vars(found).items() if one != vars(PLAYER.optimizer)[name]} == {field: value}


def test_warmup_and_schedule_replace_each_other_only_where_given() -> None:
    assert resolved_player(PLAYER, RunConfig(warmup=0)).schedule == Schedule("cosine", 0)
    own = OptimizerConfig(schedule="constant-cooldown", cooldown=4, cooldown_power=2.0, cooldown_end=0.1)
    assert resolved_player(PLAYER, RunConfig(optimizer=own)).schedule == Schedule("constant-cooldown", 6, 4, 2.0, 0.1)
    assert resolved_player(PLAYER, RunConfig(warmup=2, optimizer=own)).schedule.warmup == 2


def test_the_recipe_of_every_player_is_checked_against_the_runs_length() -> None:
    check_recipe(RunConfig(), STAGE, 6)
    with pytest.raises(UserError, match="--warmup 6 is longer than the run's 5 steps"):
        check_recipe(RunConfig(), STAGE, 5)
    check_recipe(RunConfig(warmup=5), STAGE, 5)
    both = Stage("a", Record.PAIR, (PLAYER, Player("critic", ("critic",), schedule=Schedule("cosine", 9))))
    with pytest.raises(UserError, match="--warmup 9"):
        check_recipe(RunConfig(), both, 8)


@pytest.mark.parametrize("batch", [25, 100, 400])
@pytest.mark.parametrize(("rule", "power"), [("linear", 1.0), ("sqrt", 0.5)])
def test_a_rule_scales_the_published_rate_with_the_global_batch(batch: int, rule: str, power: float) -> None:
    run = RunConfig(optimizer=OptimizerConfig(lr_rule=rule))  # type: ignore[arg-type]
    found = [scaled_lr(run, STAGE, Sizes(batch, 5, workers)) for workers in (1, 5)]
    assert found == [pytest.approx(4e-3 * math.pow(batch / 100, power))] * 2  # whatever the number of workers


def test_no_rule_is_applied_where_none_is_asked_for_or_the_user_says_the_rate() -> None:
    sizes = Sizes(400, 4, 1)
    assert scaled_lr(RunConfig(), STAGE, sizes) is None
    linear = OptimizerConfig(lr_rule="linear")
    assert scaled_lr(RunConfig(lr=1e-2, optimizer=linear), STAGE, sizes) is None
    assert scaled_lr(RunConfig(optimizer=linear), Stage("a", Record.PAIR, (PLAYER,)), sizes) is None


def test_a_cosine_ends_at_its_floor_and_steps_fall_at_their_milestones() -> None:
    floored = Schedule("cosine", floor=0.25 * PEAK)
    assert learning_rate(floored, PEAK, 0, STEPS) == PEAK
    assert learning_rate(floored, PEAK, STEPS // 2, STEPS) == pytest.approx(0.625 * PEAK)
    assert learning_rate(floored, PEAK, STEPS, STEPS) == pytest.approx(0.25 * PEAK)
    falling = rates(Schedule("steps", milestones=(3, 30), factor=0.1))
    assert falling[2:4] == pytest.approx([PEAK, 0.1 * PEAK])
    assert falling[29:31] == pytest.approx([0.1 * PEAK, 0.01 * PEAK])
    parts = rates(Schedule("steps", milestones=(0.5, 0.75), factor=0.1))
    assert [parts.index(one) for one in sorted(set(parts), reverse=True)] == [0, STEPS // 2, 3 * STEPS // 4]


def test_a_run_is_as_long_as_the_user_says_else_as_published() -> None:
    published = replace(STAGE, steps=700)
    assert run_length(RunConfig(), published) == 700
    assert run_length(RunConfig(steps=3), published) == 3
    assert run_length(RunConfig(epochs=2.0), published) is None
    with pytest.raises(UserError, match="Give --steps or --epochs"):
        run_length(RunConfig(), STAGE)


def test_players_of_several_rates_are_not_scaled_by_one_rule() -> None:
    both = replace(STAGE, players=(PLAYER, Player("critic", ("critic",), Optimizer(lr=1e-3))))
    with pytest.raises(UserError, match="the players of a have rates of their own"):
        scaled_lr(RunConfig(optimizer=OptimizerConfig(lr_rule="linear")), both, Sizes(200, 10, 1))
