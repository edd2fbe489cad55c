"""What the tests of the training loop run on every rank of a group: whole runs on toys, rows from memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import toy
from notices import Drained, Starved, Told, starving
from state_groups import everywhere, get_ready, plain
from torch import Tensor, nn

from lumiray.config import CheckpointConfig, EngineConfig, LogConfig, RunConfig
from lumiray.data.decoder import Block
from lumiray.data.entries import EVALUATE, TRAIN, Entry
from lumiray.system import Batch, Record, Schedule, Stage, Term
from lumiray.train.notice import Notice

ROWS, MICRO = 12, 3  # of a global batch: four micro-batches
PLAIN = toy.ToyConfig(dropout=0.0)
TRAINING_ROWS, VALIDATION_ROWS = 100, 10
Spoil = Callable[[int, Entry, dict[str, np.ndarray]], list[dict[str, Any]] | None]


class Contrast(toy.ToyContrast):
    """The toy contrast, with an evaluation."""

    def stages(self) -> tuple[Stage, ...]:
        return (replace(super().stages()[0], metrics=("retrieval",)),)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        rows = self.features("toy", batch)
        return {"image": rows["left"], "text": rows["right"], "owner": torch.arange(len(rows["left"]))}


class Fit(toy.ToyRegression):
    """A mean per micro-batch in any precision; a row whose `safe` is 0 has a finite loss and no finite gradient."""

    def stages(self) -> tuple[Stage, ...]:
        (player,) = super().stages()[0].players
        optimizer = replace(player.optimizer, weight_decay=0.2)
        return (Stage("fit", Record.PAIR, (replace(player, optimizer=optimizer, schedule=Schedule("cosine", 2)),)),)

    def losses(self, player: str, batch: Batch, step: int) -> dict[str, Term]:
        net: nn.Module = self.networks["net"]
        found = net(batch["left"].to(next(net.parameters()).dtype)).float()
        error = (found - batch["right"]).square() * batch["safe"][:, None]
        return {"distance": Term.mean(error.sqrt().mean()), "l2": Term.mean(error.mean())}


class Hungry(Contrast):
    """Asks for more memory than there is where a row says so."""

    def features(self, player: str, batch: Batch) -> dict[str, Tensor]:
        if batch["id"].min() < 0:
            torch.empty(1 << 50)
        return super().features(player, batch)


@dataclass(frozen=True)
class Case:
    """One run of the loop.

    Args:
        spoil: alters the arrays of an entry on a rank, or raises; may return bad rows that it reports.
        stop: (rank, step) at which that rank alone is asked to stop.
        config: of the toy.
        notice: of a host that is about to be taken away, by rank and the run's folder.
    """

    system: type
    run: RunConfig
    steps: int = 4
    spoil: Spoil | None = None
    stop: tuple[int, int] | None = None
    evaluate_every: int = 0
    config: toy.ToyConfig = PLAIN
    notice: Callable[[int, str], Notice] = lambda rank, url: Notice(None, lambda: False, asks=False)


def arrays_of(entry: Entry) -> dict[str, np.ndarray]:
    """Rows of an entry; they follow from its step alone."""
    draw = np.random.default_rng([entry.step, entry.kind == EVALUATE])
    rows = ROWS if entry.kind == TRAIN else 2 * ROWS
    left, right = (draw.standard_normal((rows, width), dtype=np.float32) for width in (8, 5))
    number = np.arange(rows)
    found = {"left": left, "right": right, "id": number, "row": number, "safe": np.ones(rows, np.float32)}
    found |= {"valid": number < VALIDATION_ROWS} if entry.kind == EVALUATE else {}
    return {name: value[entry.start : entry.stop].copy() for name, value in found.items()}


def stream(case: Case, spec: Any, rank: int, world: int, first_step: int = 0) -> Iterator[Block]:
    """The items of a rank, as the data plane would deliver them."""
    from lumiray.data.entries import entries

    for entry in entries(spec, rank, world, first_step):
        arrays = arrays_of(entry)
        bad = case.spoil(rank, entry, arrays) if case.spoil else None
        yield Block(entry, arrays, bad or [])


def spec_of(case: Case) -> Any:
    from lumiray.data.entries import StreamSpec
    from lumiray.data.index import ShardSet
    from lumiray.data.listing import Listed
    from lumiray.data.plan import Plan, PlanSettings, Source

    def shards(rows: int) -> ShardSet:
        return ShardSet([Listed("nowhere/0.tar", 1, "")], np.array([rows]), ["0"], None)

    return StreamSpec(
        slug="toy",
        system_config=None,
        stage="toy",
        plan=Plan((Source("toy", TRAINING_ROWS),), PlanSettings(), ROWS, MICRO, 0),
        sources=(shards(TRAINING_ROWS),),
        seed=0,
        total_steps=case.steps,
        validation=shards(VALIDATION_ROWS) if case.evaluate_every else None,
        evaluation_batch_size=MICRO,
        evaluate_every=case.evaluate_every,
    )


def run(case: Case, url: str) -> dict[str, Any]:
    """Run the loop on this rank from fresh weights; how it ended and what it left, of every rank."""
    from lumiray.data.feed import Feed
    from lumiray.errors import UserError
    from lumiray.train import loop as loop_module
    from lumiray.train.checkpoint import Checkpointer
    from lumiray.train.failure import out_of_memory
    from lumiray.train.fragments import full_fp32_state
    from lumiray.train.loop import Loop, Place, Surroundings
    from lumiray.train.manifest import complete
    from lumiray.train.marks import Marks
    from lumiray.train.players import make_players
    from lumiray.train.progress import Progress

    rank, world = dist.get_rank(), dist.get_world_size()
    loop_module.PATIENCE_S = 0.5
    place = Place(rank, world, torch.device("cpu"), MICRO, ROWS // MICRO, case.steps)
    torch.manual_seed(0)
    system = case.system(case.config)
    (stage,) = system.stages()
    system.build(stage)
    try:
        players = make_players(system, stage, replace(case.run, output=url), ROWS // world, place.device)
    except UserError as error:
        return {"ended": everywhere(f"{type(error).__name__}: {error}")}
    engine = players["toy"].engine
    before = plain(full_fp32_state(engine))
    spec = spec_of(case)
    lines: list[str] = []
    around = Surroundings(
        spec,
        Feed(stream(case, spec, rank, world), ROWS // world, place.device),
        Checkpointer(url, rank, world, keep=100),
        Progress(url, lambda *text: None, total_steps=case.steps, first_step=0, log=case.run.log)
        if rank == 0
        else None,
        Marks(0.0),
        case.notice(rank, url),
        lines.append,
    )
    loop = Loop(replace(case.run, output=url), place, stage, players, around)
    memory = None
    try:
        ended: Any = loop.train(lambda: (rank, loop.counters.step) == case.stop)
        around.checkpointer.wait()
    except Exception as error:  # the test decides what should have come
        ended, memory = f"{type(error).__name__}: {error}", out_of_memory(error)
    finally:
        around.feed.close()
        around.checkpointer.close()
        if around.progress:
            around.progress.close()
    dist.barrier()
    weights = plain(full_fp32_state(engine))
    found = {
        "ended": everywhere(ended),
        "memory": str(memory),
        "lines": everywhere(lines),
        "counters": everywhere(vars(loop.counters)),
        "before": before,
        "weights": weights,
        "logged": logged(url),
        "evaluated": logged(url, "evaluation"),
        "bad_rows": listed_bad_rows(url),
        "checkpoints": {one.step: one.position for one in complete(url)},
        "zero": [engine.zero_optimization_stage(), engine.zero_reduce_bucket_size()],
    }
    engine.destroy()
    return found


def logged(url: str, kind: str = "train") -> dict[int, dict[str, Any]]:
    """Logged rows of a kind by step."""
    rows = (json.loads(line) for line in (Path(url) / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row for row in rows if row["kind"] == kind}


def listed_bad_rows(url: str) -> list[dict[str, Any]]:
    """Lines of the list of rows that were replaced."""
    file = Path(url) / "bad_rows.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def nan(*steps: int, row: int = 0) -> Spoil:
    """A number that is none, in one row of rank 1."""

    def spoil(rank: int, entry: Entry, arrays: dict[str, np.ndarray]) -> None:
        if rank == 1 and entry.kind == TRAIN and entry.step in steps:
            arrays["left"][row, 0] = np.nan

    return spoil


def no_gradient(*steps: int) -> Spoil:
    """A finite loss whose gradient is not, in the first row of rank 1."""

    def spoil(rank: int, entry: Entry, arrays: dict[str, np.ndarray]) -> None:
        if rank == 1 and entry.step in steps:
            arrays["safe"][0] = 0.0

    return spoil


def too_large(*steps: int) -> Spoil:
    """Targets so far away that the scaled gradients overflow in fp16, on rank 0."""

    def spoil(rank: int, entry: Entry, arrays: dict[str, np.ndarray]) -> None:
        if rank == 0 and entry.step in steps:
            arrays["right"] *= 3e4

    return spoil


def both(*spoils: Spoil) -> Spoil:
    def spoil(rank: int, entry: Entry, arrays: dict[str, np.ndarray]) -> None:
        for one in spoils:
            one(rank, entry, arrays)

    return spoil


def failing(kind: str, step: int, start: int | None = None) -> Spoil:
    """The stream of rank 1 ends with an error at its entry of this step, or at its evaluation block `start`."""

    def spoil(rank: int, entry: Entry, arrays: dict[str, np.ndarray]) -> None:
        if rank == 1 and (entry.kind, entry.step) == (kind, step) and start in (None, entry.start):
            raise OSError(f"the disk of worker {rank} is gone")

    return spoil


def bad_rows(kind: str, step: int, count: int) -> Spoil:
    """Rank 1 reports rows that could not be used."""

    def spoil(rank: int, entry: Entry, arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        if rank != 1 or (entry.kind, entry.step) != (kind, step):
            return []
        return [
            {"shard": "00007.tar", "row": row, "key": f"key {row}", "reason": "not a picture", "position": 0}
            for row in range(count)
        ]

    return spoil


def hungry(step: int) -> Spoil:
    """The forward of this step asks for too much memory."""

    def spoil(rank: int, entry: Entry, arrays: dict[str, np.ndarray]) -> None:
        if entry.step == step:
            arrays["id"][-1] = -1

    return spoil


CLIP, HIGH = 0.05, 2.0  # far below the gradients' norm, and below the first logit scale
NAN, LATE_NAN, NO_GRADIENT = 2, 1, 3  # steps
CLAMPED = toy.ToyConfig(dropout=0.0, clamp_high=HIGH)
ADAMW = toy.ToyConfig(dropout=0.0, optimizer="adamw", lr=0.02)
OWN = {"zero_optimization": {"stage": 2, "reduce_bucket_size": 4321}}


def settings(zero: int | None = 1, checkpoint: int = 100, precision: Any = "fp32", **engine: Any) -> RunConfig:
    return RunConfig(
        zero=zero,
        precision=precision,
        engine=EngineConfig(**engine),
        log=LogConfig(every=1),
        checkpoint=CheckpointConfig(every=checkpoint),
    )


def of_stages() -> dict[str, Case]:
    """Runs of every ZeRO stage."""
    found: dict[str, Case] = {}
    broken = both(nan(LATE_NAN, row=MICRO), no_gradient(NO_GRADIENT))
    for zero in (0, 1, 2, 3):
        fp32, bf16, fp16 = (settings(zero, precision=one) for one in ("fp32", "bf16", "fp16"))
        found[f"contrast/{zero}"] = Case(
            Contrast, settings(zero, clip_norm=CLIP), steps=5, spoil=nan(NAN), config=CLAMPED
        )
        found[f"fit/{zero}"] = Case(Fit, fp32, 5, broken)
        found[f"fit/{zero}/bf16"] = Case(Fit, bf16, 5, broken)
        found[f"fit/{zero}/fp16"] = Case(Fit, fp16, 5, broken)
        found[f"overflow/{zero}"] = Case(Fit, fp16, 3, too_large(0, 1, 2), config=ADAMW)
        found[f"adamw/{zero}/bf16"] = Case(Fit, bf16, 3, config=ADAMW)
        if zero:
            found[f"offload/{zero}"] = Case(Fit, settings(zero, offload_optimizer="cpu"), 3, config=ADAMW)
    return found


def of_endings() -> dict[str, Case]:
    """Runs that end in some other way, or go on in spite of something."""
    late = {*range(39)} - {19}
    return {
        "overflow once": Case(Fit, settings(2, precision="fp16"), 6, too_large(3), config=ADAMW),
        "twenty": Case(Contrast, settings(checkpoint=2), steps=40, spoil=nan(*range(5, 40))),
        "nineteen twice": Case(Contrast, settings(checkpoint=2), steps=39, spoil=nan(*late)),
        "stop": Case(Contrast, settings(), steps=8, stop=(1, 3)),
        "taken away": Case(Contrast, settings(), steps=4, notice=lambda rank, url: Told(2 if rank == 1 else None)),
        "drained": Case(Contrast, settings(), steps=4, notice=lambda rank, url: Drained(2, asks=rank == 0)),
        "starved": Case(Contrast, settings(), steps=5, spoil=starving(3), notice=Starved),
        "fails": Case(Contrast, settings(2), steps=8, spoil=failing(TRAIN, 3)),
        "fails in evaluation": Case(
            Contrast, settings(3), steps=8, spoil=failing(EVALUATE, 2, start=9), evaluate_every=2
        ),
        "bad rows": Case(Contrast, settings(), steps=2, spoil=bad_rows(TRAIN, 1, 3)),
        "bad evaluation rows": Case(Contrast, settings(), steps=3, spoil=bad_rows(EVALUATE, 2, 30), evaluate_every=2),
        "too many bad rows": Case(Contrast, settings(), steps=4, spoil=bad_rows(TRAIN, 2, 11)),
    }


def of_settings() -> dict[str, Case]:
    """Runs with engines of other kinds."""
    return {
        "adamw": Case(Fit, settings(), 3, config=ADAMW),
        "sgd offloaded": Case(Fit, settings(2, offload_optimizer="cpu"), 3),
        "sgd": Case(Fit, settings(2), 3),
        "nvme": Case(Fit, settings(3, offload_optimizer="nvme", nvme_path="/nowhere"), 3, config=ADAMW),
        "own": Case(Fit, settings(None, deepspeed=json.dumps(OWN)), 3),
        "own offload": Case(Fit, settings(None, deepspeed=json.dumps(OFFLOADED)), 3, config=ADAMW),
        "own unknown": Case(Fit, settings(None, deepspeed='{"zero_optimization": {"stag": 2}}'), 3),
    }


OFFLOADED = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}


def of_two(rank: int, world: int, root: str) -> dict[str, Any]:
    get_ready()
    cases = of_stages() | of_endings() | of_settings()
    return {name: run(case, f"{root}/{number}") for number, (name, case) in enumerate(cases.items())}


def of_one(rank: int, world: int, root: str) -> dict[str, Any]:
    """A run whose memory runs out in step 2."""
    return run(Case(Hungry, settings(), 4, hungry(2)), root)
