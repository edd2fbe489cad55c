"""State as it is counted, against what DeepSpeed really allocates; a rehearsed step against a real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import memory_groups
import pytest
import torch
from memory_groups import BUCKET, Allocations, Chain, zero_of
from processes import run_group

from lumiray.config import EngineConfig, RunConfig
from lumiray.registry import system as make_system
from lumiray.system import Optimizer, Player, stage_named
from lumiray.train.engine import PlayerModule
from lumiray.train.engine_settings import deepspeed_settings
from lumiray.train.memory import Cut, Size, State, checkpoint_bytes, moments_of, state_memory
from lumiray.train.meter import Meter
from lumiray.train.rehearsal import DTYPES, Cost, one_step, rehearse
from lumiray.train.without_memory import networks_without_memory
from lumizoo.clip.config import ClipConfig

CASES = [(stage, precision, "adamw", 1) for stage in range(4) for precision in ("fp32", "bf16")]
CASES += [(1, "bf16", "adamw", 3), (2, "fp32", "adamw", 3), (3, "bf16", "sgd", 1)]
SMALL = json.dumps(
    {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 64, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = run_group(
        memory_groups.engines, 2, str(tmp_path_factory.mktemp("state")), CASES
    )
    return found


def sizes_of_chain() -> list[Size]:
    system = Chain()
    with torch.device("meta"):
        networks = system.build(system.stages()[0])
    return [Size(one.numel(), one.requires_grad) for one in networks.parameters()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "/".join(map(str, case)))
def test_state_is_counted_as_deepspeed_allocates_it(
    engines: dict[str, dict[str, float]], case: tuple[int, str, str, int]
) -> None:
    stage, precision, optimizer, micro_batches = case
    found = engines["/".join(map(str, case))]
    moments = moments_of(Player("net", ("net",), Optimizer(optimizer)))
    cut = Cut(zero_of(stage), precision, 2, moments, micro_batches > 1, on_gpu=False)
    counted = state_memory(sizes_of_chain(), cut)
    held = counted.weights + counted.optimizer
    waiting = held + counted.gradients
    if stage == 3:  # gradients have a place of their own there, and so has the bucket
        waiting += BUCKET * (4 if precision == "fp32" else 2)
        held = waiting
    assert found["step"] == pytest.approx(held, rel=0.02)
    assert found["backward"] == pytest.approx(waiting, rel=0.02)
    assert found["most"] == pytest.approx(counted.device, rel=0.08)
    assert found["saved"] == pytest.approx(checkpoint_bytes(sizes_of_chain(), precision, moments), rel=0.03)


def test_offloaded_state_is_the_hosts(tmp_path: Path) -> None:
    sizes = [Size(3_000_000), Size(1_000_000, trained=False)]

    def state(stage: int, **offload: str) -> State:
        run = RunConfig(zero=stage, precision="bf16", engine=EngineConfig(nvme_path=str(tmp_path), **offload))
        return state_memory(sizes, Cut(deepspeed_settings(run, 1, 4)["zero_optimization"], "bf16", 4))

    here, there = state(2), state(2, offload_optimizer="cpu")
    assert (here.optimizer, here.host) == (9_000_000, 0)
    assert (there.optimizer, there.gradients, there.host) == (0, 0, 9_000_000 + 3_000_000)  # and fp32 gradients
    assert state(3, offload_optimizer="nvme").host == 3_000_000
    both = state(3, offload_optimizer="cpu", offload_parameters="cpu")
    assert (both.weights, both.host) == (0, 9_000_000 + 3_000_000 + 2_000_000)


def test_what_a_gpu_must_have_for_a_bucket_does_not_depend_on_the_networks() -> None:
    one = state_memory([Size(10_000)], Cut({"stage": 2}, "bf16", 2))
    assert one.buffers == pytest.approx(1e9, rel=0.01)  # 500 M elements, whatever the networks
    assert state_memory([Size(10_000)], Cut({"stage": 2, "reduce_bucket_size": 1000}, "bf16", 2)).buffers < 100_000
    assert state_memory([Size(10_000)], Cut({"stage": 2}, "bf16", 2, on_gpu=False)).buffers < 100_000


Shapes = dict[str, tuple[tuple[int, ...], torch.dtype]]


def rows(number: int, side: int = 64, context: int = 16) -> Shapes:
    return {
        "image": ((number, 3, side, side), torch.uint8),
        "text": ((number, context), torch.int32),
        "identity": ((number,), torch.int64),
        "caption_id": ((number,), torch.int64),
    }


def rehearsed(batch: Shapes, micro_batches: int = 1, ranks: int = 1, precision: str = "fp32", **given: Any) -> Cost:
    system = make_system("clip", ClipConfig(**{"model": SMALL, **given}))
    stage = stage_named(system, None)
    networks_without_memory(system, stage)
    return rehearse(system, stage, stage.players[0], batch, micro_batches, ranks, precision)


@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_rehearsed_step_holds_what_a_real_one_allocates(precision: str, micro_batches: int) -> None:
    for recomputed in (False, True):
        found = rehearsed(rows(8), micro_batches, precision=precision, grad_checkpointing=recomputed)
        system = make_system("clip", ClipConfig(model=SMALL, grad_checkpointing=recomputed))
        system.build(stage_named(system, None)).to(DTYPES[precision])
        module = PlayerModule(system, stage_named(system, None).players[0])
        for value in module.parameters():
            value.register_post_accumulate_grad_hook(lambda value: setattr(value, "grad", None))
        batch = {name: torch.ones(shape, dtype=dtype) for name, (shape, dtype) in rows(8).items()}
        with Allocations() as real:
            one_step(module, batch, micro_batches, 0, lambda: 0.0)
        assert found.bytes == pytest.approx(real.most, rel=0.01)
        with Meter(iter([*module.parameters(), *module.buffers(), *batch.values()])) as meter:
            one_step(module, batch, micro_batches, 0, lambda: 0.0)
        assert found.bytes == meter.most


def test_recomputation_takes_less_memory_and_more_work() -> None:
    plain, recomputed = rehearsed(rows(16)), rehearsed(rows(16), grad_checkpointing=True)
    assert recomputed.bytes < plain.bytes / 2
    assert 1.15 < recomputed.flops / plain.flops < 1.35


def test_work_is_three_forward_passes_and_four_where_features_are_cached_first() -> None:
    system = make_system("clip", ClipConfig(model=SMALL))
    system.build(stage_named(system, None))
    published = system.flops_per_sample(stage_named(system, None))
    assert rehearsed(rows(8)).flops == pytest.approx(published, rel=0.02)
    assert rehearsed(rows(8), micro_batches=4).flops == pytest.approx(published * 4 / 3, rel=0.02)


def test_a_locked_tower_costs_less() -> None:
    assert rehearsed(rows(8), lock_image=True).bytes < rehearsed(rows(8)).bytes / 3
    assert rehearsed(rows(8), lock_image=True).flops < rehearsed(rows(8)).flops / 2


def test_the_loss_over_the_clusters_batch_is_part_of_the_step() -> None:
    """Logits of a worker's 512 rows against those of all 64 workers, in both directions."""
    logits = 512 * 512 * 64 * 4
    assert rehearsed(rows(8), micro_batches=64).bytes < logits
    many = rehearsed(rows(8), micro_batches=64, ranks=64)
    assert 3 * logits < many.bytes < 6 * logits
    assert rehearsed(rows(8), micro_batches=64, ranks=64, loss_tile=1024).bytes < logits
    assert not torch.distributed.is_initialized()


def test_a_large_model_is_rehearsed_without_its_weights() -> None:
    system = make_system("clip", ClipConfig(model="ViT-B-32"))
    stage = stage_named(system, None)
    networks = networks_without_memory(system, stage)
    assert {value.device.type for value in [*networks.parameters(), *networks.buffers()]} == {"meta"}
    assert sum(value.numel() for value in networks.parameters()) == 151_277_313
    cost = rehearse(system, stage, stage.players[0], rows(512, 224, 77), 1, 64, "bf16")
    assert cost.flops == pytest.approx(44.4e9, rel=0.01)
    assert 14.5 < cost.bytes / 2**30 < 15.5
    with torch.no_grad():  # what is left of them are shapes, too
        assert all(type(value).__name__ == "FakeTensor" for value in networks.parameters())


def test_networks_that_need_values_to_be_built_are_built_with_them() -> None:
    class Looking(Chain):
        def build(self, stage: Any) -> torch.nn.ModuleDict:
            torch.linspace(0, 1, 3)[1].item()
            return super().build(stage)

    system = Looking()
    networks = networks_without_memory(system, stage_named(system, None))
    assert {value.device.type for value in networks.parameters()} == {"cpu"}
