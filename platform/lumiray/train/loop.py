"""The training loop of one rank.

    build networks; one engine per player; restore the last checkpoint; start the feed at its step
    for step in first .. total:
        rows = this rank's rows of global batch `step`, cut into micro-batches
        for each player whose turn it is:
            set the learning rate of its applied steps
            forward and backward over the micro-batches        (step.py: exact large-batch gradients)
            not finite anywhere?  skip the update, count it; too many: stop with the last checkpoint
            engine.step(); clamp stored values in the fp32 master
        every `log.every` steps: one row of numbers, reduced over ranks
        evaluation due?        run it on rows that the same feed delivers
        checkpoint due, or asked to stop?  copy out, write behind the next steps
    last checkpoint, last evaluation

A *finished* step is one in the history of the weights: what a killed run did past its last checkpoint is
void and is done again, on the same rows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist

from lumiray.config import RunConfig
from lumiray.data.feed import Delivery, Feed
from lumiray.errors import RunFailure
from lumiray.evaluate.classes import Classes
from lumiray.evaluate.named import evaluated, evaluators
from lumiray.system import Batch, Player, Stage, System
from lumiray.train.checkpoint import Checkpointer
from lumiray.train.clamp import clamp
from lumiray.train.engine import gradient_norm, make_engine, set_learning_rate
from lumiray.train.gather import master_values
from lumiray.train.marks import Marks
from lumiray.train.progress import Progress
from lumiray.train.recipe import resolved_player
from lumiray.train.schedule import learning_rate
from lumiray.train.step import MicroBatch, StepPlace, accumulate, reduce_sums

SKIPPED_IN_A_ROW = 20  # updates without a finite loss before the run gives up (fp16 may need several to scale)


@dataclass(frozen=True)
class Place:
    """This rank's part of the run."""

    rank: int
    num_ranks: int
    device: torch.device
    micro_batch_size: int
    num_micro_batches: int  # of the global batch
    total_steps: int


@dataclass
class Counters:
    """What a checkpoint's position holds besides the weights; plain numbers only."""

    step: int = 0  # finished steps
    applied: int = 0  # of them, those that changed the weights
    skipped_in_a_row: int = 0
    replaced_rows: int = 0


@dataclass
class Trained:
    """A player with its engine."""

    player: Player
    engine: Any


def make_players(system: System, stage: Stage, run: RunConfig, place: Place) -> dict[str, Trained]:
    """Engines for every player of the stage, by the player's name."""
    rows = place.micro_batch_size * place.num_micro_batches // place.num_ranks
    trained = {}
    for published in stage.players:
        player = resolved_player(published, run)
        trained[player.name] = Trained(player, make_engine(system, player, run, rows, place.device))
    return trained


def micro_batches(delivery: Delivery, place: Place) -> list[MicroBatch]:
    """Cut a rank's rows of a step into its micro-batches."""
    size = place.micro_batch_size
    own = place.num_micro_batches // place.num_ranks
    return [
        MicroBatch(
            {name: value[i * size : (i + 1) * size] for name, value in delivery.tensors.items()},
            place.rank * own + i,
        )
        for i in range(own)
    ]


class Loop:
    """State of the loop on one rank."""

    def __init__(
        self,
        run: RunConfig,
        place: Place,
        stage: Stage,
        players: dict[str, Trained],
        feed: Feed,
        checkpointer: Checkpointer,
        progress: Progress | None,
        marks: Marks,
        classes: Classes | None = None,
    ) -> None:
        self.marks, self.classes = marks, classes
        self.run, self.place, self.stage, self.players = run, place, stage, players
        self.feed, self.checkpointer, self.progress = feed, checkpointer, progress
        self.counters = Counters()
        self.metrics: dict[str, float] = {}
        self._waited_s = 0.0
        self._logged_at = time.perf_counter()
        self._logged_step = 0

    def train(self, stop_requested: Callable[[], bool]) -> bool:
        """Run to the end of the run, or until told to stop.

        Returns:
            True if all steps are done, False if it stopped early with a checkpoint.
        """
        self._logged_step = self.counters.step
        while self.counters.step < self.place.total_steps:
            step = self.counters.step
            delivery = self.feed.training(step)
            self.marks.reach("first_batch")
            row = self.one_step(step, delivery)
            self.started()
            self.counters.step = step = step + 1
            self.counters.replaced_rows += len(delivery.bad)
            stop = self._agree(stop_requested())
            last = step == self.place.total_steps
            if step % self.run.log.every == 0 or last or stop:
                self.log(step, row)
            self.report_bad_rows(delivery)
            if self.evaluate(step) or step % self.run.checkpoint.every == 0 or last or stop:
                self.save()
            if stop and not last:
                return False
        return True

    def started(self) -> None:
        """Log once how long the start took, and where the time went."""
        if "first_step_s" not in self.marks.passed:
            self.marks.reach("first_step")
            if self.progress:
                self.progress.started(self.marks.passed)

    def one_step(self, step: int, delivery: Delivery) -> dict[str, Any]:
        """One global batch through every player whose turn it is; numbers of this rank to log."""
        row: dict[str, Any] = {}
        micros = micro_batches(delivery, self.place)
        for name, trained in self.players.items():
            player, engine = trained.player, trained.engine
            if step % player.every:
                continue
            rate = learning_rate(player.schedule, player.optimizer.lr, self.counters.applied, self.place.total_steps)
            set_learning_rate(engine, rate)
            place = StepPlace(self.run.seed, step, self.place.num_micro_batches, self.place.num_ranks)
            sums = accumulate(engine, micros, place, self.masters(trained))
            row |= {"sums": sums, "lr": rate, "engine": engine, "player": player}
            if sums is None:
                engine.zero_grad()
                self.skipped(step, f"the loss of {name} is not finite")
                continue
            norm = gradient_norm(engine)
            engine.step()
            if not engine.was_step_applied():
                self.skipped(step, f"{name}: gradients overflowed, the loss scale is lowered")
                continue
            row["grad_norm"] = engine.get_global_grad_norm() if norm is None else norm
            clamp(engine, dict(player.clamps))
            self.counters.applied += 1
            self.counters.skipped_in_a_row = 0
        return row

    def masters(self, trained: Trained) -> Batch | None:
        """fp32 master values of parameters that the loss reads; None where the weights are fp32 and whole."""
        engine, names = trained.engine, trained.player.shared
        if not names or (self.run.precision == "fp32" and engine.zero_optimization_stage() < 3):
            return None
        return master_values(engine, list(names))

    def skipped(self, step: int, why: str) -> None:
        """Account for a step without an update; give up when they come in a row.

        Raises:
            RunFailure: too many in a row; the last checkpoint stays as it is.
        """
        self.counters.skipped_in_a_row += 1
        self.say(f"step {step}: {why}; no update ({self.counters.skipped_in_a_row} in a row)")
        if self.counters.skipped_in_a_row >= SKIPPED_IN_A_ROW:
            raise RunFailure(
                f"step {step}: {why}, {SKIPPED_IN_A_ROW} steps in a row. The last checkpoint in "
                f"{self.run.output} is untouched; lower --lr, lengthen --warmup or set --engine.clip-norm."
            )

    def _agree(self, wish: bool) -> bool:
        """Whether any rank wishes it: all ranks must leave the loop at the same step."""
        if self.place.num_ranks == 1:
            return wish
        flag = torch.tensor(float(wish), device=self.place.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())

    def log(self, step: int, row: dict[str, Any]) -> None:
        """Reduce one row of numbers over ranks and hand it to the progress of rank 0."""
        now = time.perf_counter()
        took, steps = now - self._logged_at, max(1, step - self._logged_step)
        waited = self.feed.wait_s - self._waited_s
        self._logged_at, self._logged_step, self._waited_s = now, step, self.feed.wait_s
        sums = row.get("sums")
        terms = reduce_sums(sums) if sums else {}
        values: dict[str, float] = {
            "loss": sum(terms.values()) if terms else math.nan,
            "lr": row["lr"],
            "grad_norm": float(row.get("grad_norm") or 0.0),
            "samples_per_s": steps * self.place.micro_batch_size * self.place.num_micro_batches / took,
            "step_s": took / steps,
            "data_wait_share": min(1.0, waited / took),
            "memory_gb": memory_gb(self.place.device),
        }
        values |= terms if len(terms) > 1 else {}
        trained = self.players[row["player"].name]
        if trained.player.shared:
            found = master_values(trained.engine, list(trained.player.shared))
            values |= {name.rpartition(".")[2]: float(value) for name, value in found.items()}
        if self.counters.replaced_rows:
            values["replaced_rows"] = float(self.counters.replaced_rows)
        if self.progress:
            self.progress.step(step, values)

    def report_bad_rows(self, delivery: Delivery) -> None:
        """Log substituted rows with their address; stop when there are too many.

        Raises:
            RunFailure: more than `data.bad_rows_limit` of this rank's rows were replaced.
        """
        for bad in delivery.bad:
            self.say(f"replaced {bad['shard']} row {bad['row']} (key {bad['key']!r}): {bad['reason']}")
        own = self.place.micro_batch_size * self.place.num_micro_batches // self.place.num_ranks
        seen = max(1000, self.counters.step * own)
        if delivery.bad and self.counters.replaced_rows > self.run.data.bad_rows_limit * seen:
            raise RunFailure(
                f"{self.counters.replaced_rows} of {seen} rows could not be used, more than "
                f"--data.bad-rows-limit {self.run.data.bad_rows_limit}; the last one: {delivery.bad[-1]}. "
                "Mend the shards, or raise the limit."
            )

    def evaluate(self, step: int) -> bool:
        """Run the evaluation that the feed delivers after this step, if any."""
        deliveries = self.feed.evaluation(step)
        first = next(deliveries, None)
        if first is None:
            return False
        begin, waited = time.perf_counter(), self.feed.wait_s
        self.metrics = evaluate_stage(self.stage, self.classes, self.players, chain([first], deliveries))
        self._logged_at += time.perf_counter() - begin  # training speed excludes evaluation
        self._waited_s += self.feed.wait_s - waited
        if self.progress:
            self.progress.evaluation(step, self.metrics)
        return True

    def save(self) -> None:
        """Checkpoint the finished steps; returns when weights are copied out of the device."""
        engines = {name: trained.engine for name, trained in self.players.items()}
        position = {**vars(self.counters)}
        self.checkpointer.save(self.counters.step, engines, position, self.metrics)

    def say(self, text: str) -> None:
        """One line in the log, from rank 0 (rows are named by the rank that met them)."""
        if self.progress:
            self.progress.message(text)
        else:
            print(f"rank {self.place.rank}: {text}", flush=True)


def evaluate_stage(
    stage: Stage, classes: Classes | None, players: dict[str, Trained], deliveries: Iterator[Delivery]
) -> dict[str, float]:
    """All evaluations that the stage names, in one pass over the deliveries; equal on all ranks."""
    engine = next(iter(players.values())).engine
    engine.eval()
    with torch.no_grad():
        found = evaluators(stage.metrics, classes, lambda texts: engine("embed_texts", {}, texts=texts))
        batches = (delivery.tensors for delivery in deliveries)
        metrics = evaluated(found, batches, lambda batch: engine("embed", batch))
    engine.train()
    return metrics


def memory_gb(device: torch.device) -> float:
    """Peak memory of this rank: on the GPU the allocator's, on the CPU the resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
