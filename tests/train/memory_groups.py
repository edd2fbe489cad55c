"""What real DeepSpeed engines hold: every tensor of the process is counted, and every allocation of a step."""

from __future__ import annotations

import gc
import json
import statistics
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lumiray.system import Batch, Optimizer, Player, Record, Row, Stage, System, Term

WIDTH, LAYERS, FROZEN = 96, 16, 2
BUCKET, THRESHOLD = 30_000, 1_000  # elements; small, so that they do not hide the rest


@dataclass(frozen=True)
class ChainConfig:
    """The optimizer of the chain."""

    optimizer: str = "adamw"


class Chain(System):
    """Many equal layers, the first ones frozen."""

    slug = "chain"
    config_class = ChainConfig

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("fit", Record.PAIR, (Player("chain", ("net",), Optimizer(self.config.optimizer)),)),)

    def build(self, stage: Stage) -> nn.ModuleDict:
        net = nn.Sequential(*[nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)])
        net[:FROZEN].requires_grad_(False)
        for layer in net[FROZEN:]:  # gloo's threads get time to let go of the buckets that they have reduced
            layer.weight.register_hook(lambda gradient: time.sleep(0.003))
        self.networks = nn.ModuleDict({"net": net})
        return self.networks

    def prepare(self, stage: Stage, row: Row, draw: Any) -> dict:
        raise AssertionError("tests feed tensors")

    def losses(self, player: str, batch: Batch, step: int) -> dict[str, Term]:
        net = self.networks["net"]
        return {"l2": Term.mean(net(batch["rows"].to(net[0].weight.dtype)).float().square().mean())}


def alive() -> int:
    """Bytes of all tensors of this process."""
    gc.collect()
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some objects warn when they are asked for their class
        tensors = [one for one in gc.get_objects() if isinstance(one, torch.Tensor) and one.device.type == "cpu"]
    for one in [*tensors, *(one.grad for one in tensors if one.is_leaf and one.grad is not None)]:
        storage = one.untyped_storage()
        found[storage._cdata] = storage.nbytes()
    return sum(found.values())


class Allocations:
    """While inside, the most bytes that were allocated at once, beyond those at the beginning."""

    def __enter__(self) -> Allocations:
        kinds = [torch.profiler.ProfilerActivity.CPU]
        self._profiler = torch.profiler.profile(activities=kinds, profile_memory=True)
        self._profiler.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._profiler.__exit__(*error)
        events = [one for one in self._profiler.profiler.kineto_results.events() if one.name() == "[memory]"]
        held = self.most = 0
        for one in sorted(events, key=lambda one: one.start_ns()):
            held += one.nbytes()
            self.most = max(self.most, held)


def engines(rank: int, world: int, root: str, cases: list[tuple[int, str, str, int]]) -> dict[str, Any]:
    """Measure cases (stage, precision, optimizer, micro-batches): bytes after steps, after backward, at most."""
    try:
        return {"/".join(map(str, case)): measured(root, *case) for case in cases}
    finally:
        gc.unfreeze()


def measured(root: str, stage: int, precision: str, optimizer: str, micro_batches: int) -> dict[str, float]:
    import deepspeed  # noqa: F401  # with all that it brings
    from state_groups import save

    from lumiray.config import EngineConfig, RunConfig
    from lumiray.train.engine import make_engine

    gc.collect()
    gc.freeze()  # what is there already is not looked through again and again
    before = alive()
    own = Path(root) / f"deepspeed-{torch.distributed.get_rank()}.json"
    own.write_text(json.dumps({"zero_optimization": zero_of(stage)}))
    system = Chain(ChainConfig(optimizer))
    system.build(system.stages()[0])
    run = RunConfig(precision=precision, engine=EngineConfig(deepspeed=str(own)))
    engine = make_engine(system, system.stages()[0].players[0], run, 2, torch.device("cpu"))
    steps = []
    for _ in range(9):  # the first is unlike all that follow
        held = alive()
        with Allocations() as backward:
            for micro in range(micro_batches):
                engine.set_gradient_accumulation_boundary(micro == micro_batches - 1)
                loss, *_ = engine("losses", {"rows": torch.randn(2, WIDTH)}, scale=1.0, step=0)
                engine.backward(loss)
                del loss
        waiting = alive()
        with Allocations() as step:
            engine.step()
        most = max(held + backward.most, waiting + step.most)
        steps.append({"backward": waiting - before, "step": alive() - before, "most": most - before})
    found = {name: statistics.median(one[name] for one in steps[1:]) for name in steps[0]}
    # gloo's threads hold a bucket for a moment longer, as the machine has time for them: that only adds to the peak
    found["most"] = min(one["most"] for one in steps[1:])
    url = f"{root}/{stage}-{precision}-{optimizer}-{micro_batches}"
    save(url, 2, engine)
    files = Path(url).rglob("*.safetensors")
    found["saved"] = sum(one.stat().st_size for one in files)
    engine.destroy()
    return found


def zero_of(stage: int) -> dict[str, int]:
    return {"stage": stage, "reduce_bucket_size": BUCKET, "stage3_param_persistence_threshold": THRESHOLD}
