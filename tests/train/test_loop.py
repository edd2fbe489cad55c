"""The training loop on real groups, with a feed over rows in memory: steps that are skipped, clipped and clamped,
and runs that end before their last step.  Updates are compared with plain torch over SGD steps: AdamW would hide a
wrong constant factor."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import loop_groups as groups
import pytest
import torch
import toy
from processes import run_group

from lumiray.data.entries import EVALUATE, TRAIN, Entry
from lumiray.errors import UserError
from lumiray.train.schedule import learning_rate

STAGES = (0, 1, 2, 3)
LR = toy.ToyConfig().lr
Run = dict[str, Any]


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    return run_group(groups.of_two, 2, str(tmp_path_factory.mktemp("two")))


@pytest.fixture(scope="module")
def of_one(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_group(groups.of_one, 1, str(tmp_path_factory.mktemp("one")))


def batch(step: int) -> dict[str, torch.Tensor]:
    """The whole global batch of a step."""
    return {name: torch.from_numpy(one) for name, one in groups.arrays_of(Entry(TRAIN, step, 0, groups.ROWS)).items()}


def contrast_loss(towers: toy.Towers, rows: dict[str, torch.Tensor]) -> torch.Tensor:
    left, right = towers(rows["left"], rows["right"])
    logits, labels = towers.logit_scale.exp() * left @ right.T, torch.arange(len(left))
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2


def fit_loss(net: torch.nn.Module, rows: dict[str, torch.Tensor]) -> torch.Tensor:
    error = (net(rows["left"]) - rows["right"]).square()
    return error.sqrt().mean() + error.mean()


def expected(
    case: groups.Case, skipped: set[int], loss_of: Callable[..., torch.Tensor], clip: float = math.inf
) -> dict[str, Any]:
    """The same run in plain torch, without the skipped steps: norms before clipping, rates, scales, weights."""
    torch.manual_seed(0)
    system = case.system(case.config)
    (stage,) = system.stages()
    ((name, network),) = system.build(stage).items()
    (player,) = stage.players
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, weight_decay=player.optimizer.weight_decay)
    found: dict[str, Any] = {"grad_norm": {}, "lr": {}, "logit_scale": {}}
    applied = 0
    for step in range(case.steps):
        rate = learning_rate(player.schedule, player.optimizer.lr, applied, case.steps)
        optimizer.param_groups[0]["lr"] = found["lr"][step] = rate
        if step not in skipped:
            optimizer.zero_grad()
            loss_of(network, batch(step)).backward()
            found["grad_norm"][step] = float(torch.nn.utils.clip_grad_norm_(network.parameters(), clip))
            optimizer.step()
            applied += 1
            for stored, bounds in player.clamps.items():
                network.get_parameter(stored.removeprefix(f"{name}.")).data.clamp_(*bounds)
        if player.clamps:
            found["logit_scale"][step] = float(network.logit_scale.detach())
    found["weights"] = {f"{name}.{n}": v.double().flatten().tolist() for n, v in network.named_parameters()}
    return found


@pytest.fixture(scope="module")
def contrast() -> dict[str, Any]:
    return expected(groups.of_stages()["contrast/1"], {groups.NAN}, contrast_loss, groups.CLIP)


@pytest.fixture(scope="module")
def fit() -> dict[str, Any]:
    return expected(groups.of_stages()["fit/1"], {groups.LATE_NAN, groups.NO_GRADIENT}, fit_loss)


def logged(found: Run, name: str) -> dict[int, float]:
    """A number of every step that it was logged for, by 0-based step."""
    return {int(step) - 1: row[name] for step, row in found["logged"].items() if row[name] is not None}


def counters(step: int, skipped: int = 0, in_a_row: int = 0) -> dict[str, Any]:
    """What a checkpoint of a run of the one player holds besides weights."""
    counts = ({"toy": number} if number else {} for number in (skipped, in_a_row))
    return {"step": step, **dict(zip(("skipped", "skipped_in_a_row"), counts, strict=True)), "replaced_rows": 0}


def rows_of(step: int) -> str:
    """The planned rows of a step, as messages name them."""
    from lumiray.data.plan import Plan, PlanSettings, Source

    plan = Plan((Source("toy", groups.TRAINING_ROWS),), PlanSettings(), groups.ROWS, groups.MICRO, 0)
    return "0.tar rows " + ", ".join(map(str, sorted(plan.batch(step).row.tolist())))


def assert_close(ours: dict[str, list[float]], theirs: dict[str, list[float]], tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        assert ours[name] == pytest.approx(values, rel=0, abs=tolerance), name


@pytest.mark.parametrize("zero", STAGES)
def test_the_norm_is_logged_before_clipping_and_the_update_is_that_of_clipped_gradients(
    of_two: dict[str, Run], contrast: dict[str, Any], zero: int
) -> None:
    found = of_two[f"contrast/{zero}"]
    assert logged(found, "grad_norm") == pytest.approx(contrast["grad_norm"], rel=2e-5)
    assert min(contrast["grad_norm"].values()) > 10 * groups.CLIP  # it is clipped at every step
    assert_close(found["weights"], contrast["weights"], 2e-6)


@pytest.mark.parametrize("zero", STAGES)
def test_a_batch_with_a_nan_moves_the_position_but_neither_weights_nor_rate_nor_clamp(
    of_two: dict[str, Run], contrast: dict[str, Any], zero: int
) -> None:
    found = of_two[f"contrast/{zero}"]
    assert found["ended"] == [True, True]
    assert found["counters"] == [counters(5, skipped=1)] * 2
    assert logged(found, "lr") == pytest.approx(contrast["lr"], rel=1e-12)
    rates = contrast["lr"]
    assert rates[groups.NAN] == rates[groups.NAN + 1] > rates[groups.NAN + 2]
    assert sorted(logged(found, "loss")) == [step for step in range(5) if step != groups.NAN]
    told = f"step 2: the loss of toy is not finite; no update (1 in a row); its rows: {rows_of(groups.NAN)}"
    assert found["lines"][0] == [told]


@pytest.mark.parametrize("zero", STAGES)
def test_a_scale_that_begins_above_its_bound_is_clamped_from_the_first_step_on(
    of_two: dict[str, Run], contrast: dict[str, Any], zero: int
) -> None:
    found = logged(of_two[f"contrast/{zero}"], "logit_scale")
    assert of_two[f"contrast/{zero}"]["before"]["towers.logit_scale"][0] > groups.HIGH
    assert found == pytest.approx(contrast["logit_scale"], abs=1e-6)
    assert found[0] == groups.HIGH
    assert max(found.values()) <= groups.HIGH


@pytest.mark.parametrize("zero", STAGES)
def test_nothing_stays_of_a_step_whose_second_micro_batch_or_only_gradient_is_not_finite(
    of_two: dict[str, Run], fit: dict[str, Any], zero: int
) -> None:
    found = of_two[f"fit/{zero}"]
    assert found["lines"][0] == [
        f"step 1: the loss of toy is not finite; no update (1 in a row); its rows: {rows_of(groups.LATE_NAN)}",
        "step 3: gradients of toy are not finite; no update (1 in a row)",
    ]
    assert logged(found, "grad_norm") == pytest.approx(fit["grad_norm"], rel=2e-5)
    assert_close(found["weights"], fit["weights"], 2e-6)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("zero", STAGES)
def test_the_same_holds_in_16_bit(of_two: dict[str, Run], fit: dict[str, Any], zero: int, precision: str) -> None:
    found = of_two[f"fit/{zero}/{precision}"]
    assert found["counters"][0]["skipped"] == {"toy": 2}
    assert logged(found, "grad_norm") == pytest.approx(fit["grad_norm"], rel=0.02)
    assert_close(found["weights"], fit["weights"], 2e-3)  # three steps of up to 0.05 * 0.75
    assert max(abs(a - b) for a, b in zip(found["before"]["net.0.weight"], fit["weights"]["net.0.weight"])) > 5e-3


@pytest.mark.parametrize("zero", STAGES)
def test_gradients_that_overflow_in_fp16_move_nothing(of_two: dict[str, Run], zero: int) -> None:
    found = of_two[f"overflow/{zero}"]
    assert found["counters"][0] == counters(3, skipped=3, in_a_row=3)
    assert found["weights"] == found["before"]
    assert len(set(logged(found, "lr").values())) == 1
    assert "the loss scale is lowered; no update (3 in a row)" in found["lines"][0][2]


def test_one_overflow_between_good_steps_is_forgotten(of_two: dict[str, Run]) -> None:
    found = of_two["overflow once"]
    assert found["counters"][0] == counters(6, skipped=1)
    rates = logged(found, "lr")
    assert rates[3] == rates[4] > rates[5]


def test_twenty_bad_steps_in_a_row_stop_the_run_and_leave_the_checkpoints_before_them(of_two: dict[str, Run]) -> None:
    found = of_two["twenty"]
    for told in found["ended"]:
        assert told.startswith("RunFailure: step 24: the loss of toy is not finite, 20 steps in a row; its rows: ")
        assert rows_of(24) in told
        assert "--lr" in told
        assert "--engine.clip-norm" in told
    assert list(found["checkpoints"]) == ["4", "2"]
    assert found["checkpoints"]["4"] == counters(4)


def test_a_good_step_begins_the_count_anew_and_a_checkpoint_that_was_due_comes_with_it(of_two: dict[str, Run]) -> None:
    found = of_two["nineteen twice"]
    assert found["ended"] == [True, True]
    assert found["counters"][0] == counters(39, skipped=38, in_a_row=19)
    assert list(found["checkpoints"]) == ["39", "20"]


@pytest.mark.parametrize("zero", STAGES)
def test_bf16_begins_from_the_same_state_at_every_stage(of_two: dict[str, Run], zero: int) -> None:
    assert_close(of_two[f"adamw/{zero}/bf16"]["weights"], of_two["adamw"]["weights"], 4e-3)


def test_a_stop_that_one_rank_sees_ends_all_at_the_same_step_with_a_checkpoint(of_two: dict[str, Run]) -> None:
    found = of_two["stop"]
    assert found["ended"] == [False, False]
    assert [one["step"] for one in found["counters"]] == [3, 3]
    assert found["checkpoints"] == {"3": found["counters"][0]}


@pytest.mark.parametrize("name", ["taken away", "drained"])
def test_notice_that_a_host_goes_brings_one_checkpoint_at_once_and_training_goes_on(
    of_two: dict[str, Run], name: str
) -> None:
    found = of_two[name]
    assert found["ended"] == [True, True]
    assert list(found["checkpoints"]) == ["4", "3"]
    assert found["lines"] == [["a host is about to be taken away: a checkpoint comes next"], []]


def test_a_checkpoint_does_not_wait_for_rows_that_a_host_which_goes_gives_no_more(of_two: dict[str, Run]) -> None:
    found = of_two["starved"]
    assert found["ended"] == [True, True]
    assert list(found["checkpoints"]) == ["5", "3"]


@pytest.mark.parametrize(("name", "step"), [("fails", 3), ("fails in evaluation", 2)])
def test_a_feed_that_fails_on_one_rank_ends_all_with_what_was_finished(
    of_two: dict[str, Run], name: str, step: int
) -> None:
    found = of_two[name]
    assert found["ended"][1] == "OSError: the disk of worker 1 is gone"
    assert "another worker failed" in found["ended"][0]
    assert list(found["checkpoints"]) == [str(step)]
    assert found["checkpoints"][str(step)] == counters(step)
    assert max(map(int, found["logged"])) == step


def test_bad_rows_are_named_and_counted_over_all_ranks(of_two: dict[str, Run]) -> None:
    found = of_two["bad rows"]
    assert found["lines"][1][0] == "worker 1: replaced: 00007.tar row 0 (key 'key 0'): not a picture"
    assert len(found["lines"][1]) == 3
    assert [one["replaced_rows"] for one in found["counters"]] == [3, 3]
    assert found["logged"]["2"]["replaced_rows"] == 3
    assert found["checkpoints"]["2"]["replaced_rows"] == 3
    assert [(one["step"], one["shard"], one["row"]) for one in found["bad_rows"]] == [
        (2, "00007.tar", row) for row in range(3)
    ]


def test_bad_rows_of_an_evaluation_are_named_and_do_not_count(of_two: dict[str, Run]) -> None:
    found = of_two["bad evaluation rows"]
    assert found["ended"] == [True, True]
    assert found["lines"][1][0].startswith("worker 1: left out of the evaluation: 00007.tar row 0")
    assert found["lines"][1][10:] == ["worker 1: left out of the evaluation: 50 more"]  # 60 of two batches
    assert found["lines"][0] == []
    assert found["evaluated"]["2"]["unusable_rows"] == 60
    assert "unusable_rows" not in found["evaluated"]["3"]
    assert found["counters"][0]["replaced_rows"] == 0


def test_too_many_bad_rows_stop_the_run_with_the_address_of_one(of_two: dict[str, Run]) -> None:
    found = of_two["too many bad rows"]
    assert found["ended"][1] == (
        "RunFailure: 11 of 1000 rows could not be used, more than --data.bad-rows-limit 0.01 allows; the last one: "
        "00007.tar row 10 (key 'key 10'): not a picture. Mend the shards, or raise the limit."
    )
    assert found["ended"][0].startswith("RuntimeError: another worker")
    assert list(found["checkpoints"]) == ["2"]
    assert found["checkpoints"]["2"]["replaced_rows"] == 0  # the rows of an unfinished step are delivered again


def test_memory_that_runs_out_is_said_with_step_and_mend_and_costs_no_finished_step(of_one: Run) -> None:
    assert of_one["memory"].startswith("Memory ran out, in step 2, player toy, worker 0: ")
    for mend in ("--micro-batch-size", "--grad-checkpointing", "--zero"):
        assert mend in of_one["memory"]
    assert list(of_one["checkpoints"]) == ["2"]


@pytest.mark.parametrize("name", ["offload/1", "offload/2", "offload/3", "own offload"])
def test_optimizer_state_in_host_memory_gives_the_same_weights(of_two: dict[str, Run], name: str) -> None:
    assert of_two[name]["ended"] == [True, True]
    assert_close(of_two[name]["weights"], of_two["adamw"]["weights"], 2e-6)


def test_plain_sgd_can_be_offloaded_too(of_two: dict[str, Run]) -> None:
    assert_close(of_two["sgd offloaded"]["weights"], of_two["sgd"]["weights"], 2e-6)


def test_ones_own_deepspeed_json_is_used(of_two: dict[str, Run]) -> None:
    assert of_two["own"]["zero"] == [2, 4321]
    assert of_two["sgd"]["zero"] != of_two["own"]["zero"]
    assert_close(of_two["own"]["weights"], of_two["sgd"]["weights"], 2e-6)


def test_what_deepspeed_or_the_machine_cannot_do_is_refused_before_the_first_step(of_two: dict[str, Run]) -> None:
    (told, _) = of_two["own unknown"]["ended"]
    assert told == "UserError: --engine.deepspeed: DeepSpeed does not take stag: Extra inputs are not permitted."
    if library_for_nvme():
        assert of_two["nvme"]["ended"] == [True, True]
    else:
        assert of_two["nvme"]["ended"][0].startswith("UserError: nvme offload needs the library libaio")


def library_for_nvme() -> bool:
    return Path("/usr/include/libaio.h").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"bf16": {"enabled": true}, "optimizer": {}}', "sets bf16, optimizer, which options of the job set"),
        ('{"train_batch_size": "auto"}', "sets train_batch_size"),
        ('{"zero_optimization": 2}', "must hold one JSON object"),
        ("[1, 2]", "must hold one JSON object"),
        ("{'stage': 1}", "cannot be read as JSON"),
    ],
)
def test_ones_own_deepspeed_json_may_not_say_what_options_say(tmp_path: Path, text: str, words: str) -> None:
    from lumiray.train.engine_settings import own_settings

    file = tmp_path / "mine.json"
    file.write_text(text)
    with pytest.raises(UserError, match=words) as refused:
        own_settings(str(file))
    assert str(file) in str(refused.value)


def test_evaluation_blocks_and_steps_of_the_toy_differ() -> None:
    """The rows of these tests are what they are taken for."""
    train, evaluate = (groups.arrays_of(Entry(kind, 2, 0, 3)) for kind in (TRAIN, EVALUATE))
    assert not (train["left"] == evaluate["left"]).any()
    assert evaluate["valid"].all()
