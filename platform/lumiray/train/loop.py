"""The training loop of one rank.

    build networks; one engine per player; restore the last checkpoint; start the feed at its step
    for step in first .. total:
        rows = this rank's rows of global batch `step`, cut into micro-batches
        for each player whose turn it is:
            set the learning rate of the step
            forward and backward over the micro-batches        (step.py: exact large-batch gradients)
            loss or gradient not finite anywhere?  skip the update, count it; too many: stop
            engine.step(); clamp stored values in the fp32 master; average the weights
        every `log.every` steps: one row of numbers, reduced over ranks
        evaluation due?        run it on rows that the same feed delivers
        checkpoint due, or asked to stop?  copy out, write behind the next steps; not while updates are skipped
    last checkpoint, last evaluation

A *finished* step is one in the history of the weights: what a killed run did past its last checkpoint is
void and is done again, on the same rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from lumiray.config import RunConfig
from lumiray.data.entries import EVALUATE, TRAIN, StreamSpec, num_evaluation_batches
from lumiray.data.feed import Delivery, Feed
from lumiray.errors import RunFailure
from lumiray.evaluate.classes import Classes
from lumiray.evaluate.named import evaluated, evaluators
from lumiray.system import Batch, Player, Stage, System
from lumiray.train.agreement import FAILED, GO, STOP, Agreed, Agreement
from lumiray.train.average import averaged
from lumiray.train.bad_rows import LeftOut, of_all_ranks, report, too_many
from lumiray.train.checkpoint import Checkpointer
from lumiray.train.engine import set_learning_rate
from lumiray.train.marks import Marks
from lumiray.train.notice import Notice
from lumiray.train.players import Counters, Moved, Trained, memory_gb, numbers
from lumiray.train.progress import Progress
from lumiray.train.running_statistics import RunningStatistics
from lumiray.train.schedule import learning_rate
from lumiray.train.shared_cores import SharedCores
from lumiray.train.step import MicroBatch, StepPlace, Sums, accumulate
from lumiray.train.step_rows import rows_of_step

PATIENCE_S = 5.0  # with rows that do not come, before the ranks hear of each other and of a wish to stop
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

    @property
    def global_batch_size(self) -> int:
        """Rows of a step over all ranks."""
        return self.micro_batch_size * self.num_micro_batches


@dataclass(frozen=True)
class Surroundings:
    """Where rows come from, and where checkpoints, numbers and words go.

    Args:
        stream: what the feed delivers.
        progress: on rank 0 only.
        notice: of hosts that are about to be taken away.
        show: one line for the user, from any rank.
    """

    stream: StreamSpec
    feed: Feed
    checkpointer: Checkpointer
    progress: Progress | None
    marks: Marks
    notice: Notice
    show: Callable[[str], object]


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
        around: Surroundings,
        classes: Classes | None = None,
    ) -> None:
        self.run, self.place, self.stage, self.players = run, place, stage, players
        self.stream, self.feed, self.checkpointer = around.stream, around.feed, around.checkpointer
        self.progress, self.show, self.marks = around.progress, around.show, around.marks
        self.agreement, self._warned = Agreement(place.num_ranks, place.device, around.notice), False
        self.classes = classes
        self.counters = Counters()
        self._moved: dict[str, Moved] = {}  # the newest turn of every player
        self._statistics = RunningStatistics(system_of(players).networks.values())
        self.metrics: dict[str, float] = {}
        self._waited_s = 0.0
        self._logged_at = time.perf_counter()
        self._logged_step = self._saved_step = self._evaluated_step = 0
        self._save_due = False
        self.cores = SharedCores(torch.get_num_threads() if place.device.type == "cpu" else 1)

    def train(self, stop_requested: Callable[[], bool]) -> bool:
        """Run to the end of the run, or until told to stop.

        Returns:
            True if all steps are done, False if it stopped early with a checkpoint.
        """
        self._logged_step = self._saved_step = self.counters.step
        while self.counters.step < self.place.total_steps:
            step = self.counters.step
            delivery = self.deliver(TRAIN, step, stop_requested)
            if delivery is None:
                return False
            self.marks.reach("first_batch")
            self.one_step(step, delivery)
            self.started()
            self.cores.after_step(self.feed.wait_s)
            self.counters.step = step = step + 1
            last = step == self.place.total_steps
            if step % self.run.log.every == 0 or last:
                self.log(step)
            self._save_due |= self.evaluate(step) or step % self.run.checkpoint.every == 0
            # weights under which nothing is finite must not push good ones out of those that are kept
            if last or (self._save_due and not self.counters.skipped_in_a_row):
                self.save()
        return True

    def deliver(self, kind: str, step: int, stop_requested: Callable[[], bool] = lambda: False) -> Delivery | None:
        """This rank's next rows, once every rank has its own; None if any rank wishes to stop.

        The ranks agree before any of them goes on: one that cannot have its rows would leave the others
        waiting for it in a collective, and what they had finished would be lost.

        Raises:
            Exception: what kept this rank, or another one, from its rows; finished steps are committed.
        """
        delivery, failure, replaced = None, None, 0
        while True:
            try:
                if delivery is None and self.feed.arrives(PATIENCE_S):
                    delivery = self.feed.take(kind, step)
                    replaced = report(delivery, self.say) if kind == TRAIN else 0
            except Exception as error:  # whatever it is, the other ranks must hear of it
                failure = error
            wish = FAILED if failure else STOP if stop_requested() else GO
            agreed = self.agreement.reach(wish, replaced, late=delivery is None)
            self._heed(agreed)
            if agreed.verdict != GO or not agreed.late:
                break
        verdict, replaced = agreed.verdict, agreed.replaced
        if verdict == GO and replaced and delivery:
            rows = of_all_ranks(delivery.bad)
            if self.progress:
                self.progress.replaced(self.counters.step + 1, rows)
            total, seen = (
                self.counters.replaced_rows + replaced,
                (self.counters.step + 1) * self.place.global_batch_size,
            )
            failure = too_many(total, seen, self.run.data.bad_rows_limit, delivery)
            verdict = FAILED if failure else GO
        if verdict == GO:
            self.counters.replaced_rows += replaced
            return delivery
        self.commit()
        if verdict == STOP:
            return None
        raise failure or RuntimeError("another worker failed; what was finished is committed")

    def _heed(self, agreed: Agreed) -> None:
        """Let a checkpoint follow where a host is about to be taken away, at once if its rows do not come any more."""
        if agreed.going and not self._warned:
            self._warned = self._save_due = True
            if self.place.rank == 0:
                self.show("a host is about to be taken away: a checkpoint comes next")
        if agreed.late and self._save_due and not self.counters.skipped_in_a_row:
            self.save()

    def commit(self) -> None:
        """Write down what is finished, before the loop is left early; every rank calls it."""
        if self._moved and self._logged_step != self.counters.step:
            self.log(self.counters.step)
        self.save()
        self.checkpointer.wait()

    def started(self) -> None:
        """Log once how long the start took, and where the time went."""
        if "first_step_s" not in self.marks.passed:
            self.marks.reach("first_step")
            self.cores.restart(self.feed.wait_s)  # its rows were waited for in any case
            if self.progress:
                self.progress.started(self.marks.passed)

    def one_step(self, step: int, delivery: Delivery) -> None:
        """One global batch through every player whose turn it is."""
        micros = micro_batches(delivery, self.place)
        system = system_of(self.players)
        for trained in self.players.values():
            if system.moves(trained.player, step):
                self._statistics.before_turn()
                applied = self.one_turn(step, trained, micros)
                self._statistics.after_turn(applied)

    def one_turn(self, step: int, trained: Trained, micros: list[MicroBatch]) -> bool:
        """Forward, backward and update of one player; False where something was not finite and nothing moved."""
        player, engine = trained.player, trained.engine
        passed = step - self.counters.skipped.get(player.name, 0)
        rate = learning_rate(player.schedule, player.optimizer.lr, passed, self.place.total_steps)
        set_learning_rate(engine, rate)
        place = StepPlace(self.run.seed, step, self.place.num_micro_batches, self.place.num_ranks)
        sums = self.accumulated(trained, micros, place)
        self._moved[player.name] = Moved(rate, sums)
        if sums is None:
            self.skipped(step, player, f"the loss of {player.name} is not finite", rows_of_step(self.stream, step))
            return False
        norm = trained.step()
        if norm is None:
            lowered = ", the loss scale is lowered" if engine.fp16_enabled() else ""
            self.skipped(step, player, f"gradients of {player.name} are not finite{lowered}")
            return False
        self._moved[player.name] = Moved(rate, sums, norm)
        self.counters.moved(player.name)
        return True

    def accumulated(self, trained: Trained, micros: list[MicroBatch], place: StepPlace) -> Sums | None:
        """See `accumulate`.  What fails here, such as memory, leaves the weights as the finished steps made them.

        Raises:
            Exception: with the step in its notes.
        """
        try:
            return accumulate(trained.engine, micros, place, trained.masters(self.run))
        except Exception as error:
            error.add_note(f"in step {place.step}, player {trained.player.name}, worker {self.place.rank}")
            if self.place.num_ranks == 1:  # of several, the others wait in a collective of this step
                self.commit()
            raise

    def skipped(self, step: int, player: Player, why: str, rows: str = "") -> None:
        """Account for a player's step without an update; give up when they come in a row.

        Args:
            rows: of the step, where they may be the reason.

        Raises:
            RunFailure: too many in a row; the last checkpoint stays as it is.
        """
        in_a_row = self.counters.left_out(player.name)
        named = f"; its rows: {rows}" if rows else ""
        if self.place.rank == 0:
            self.show(f"step {step}: {why}; no update ({in_a_row} in a row){named}")
        if in_a_row >= SKIPPED_IN_A_ROW:
            raise RunFailure(
                f"step {step}: {why}, {SKIPPED_IN_A_ROW} steps in a row{named}. The last checkpoint in "
                f"{self.run.output} is untouched; lower --lr, lengthen --warmup or set --engine.clip-norm."
            )

    def log(self, step: int) -> None:
        """Reduce the newest step's numbers over ranks and hand them to the progress of rank 0."""
        now = time.perf_counter()
        took, steps = now - self._logged_at, max(1, step - self._logged_step)
        waited = self.feed.wait_s - self._waited_s
        self._logged_at, self._logged_step, self._waited_s = now, step, self.feed.wait_s
        values = numbers(self.players, self._moved) | {
            "samples_per_s": steps * self.place.global_batch_size / took,
            "step_s": took / steps,
            "data_wait_share": min(1.0, waited / took),
            "memory_gb": memory_gb(self.place.device),
            **self.agreement.slowest(steps),
        }
        if self.counters.skipped:
            values["skipped_updates"] = float(sum(self.counters.skipped.values()))
        if self.counters.replaced_rows:
            values["replaced_rows"] = float(self.counters.replaced_rows)
        if self.progress:
            self.progress.step(step, values)

    def evaluate(self, step: int) -> bool:
        """Run the evaluation that follows this step, if one does."""
        if not self.stream.evaluation_due(step):
            return False
        begin, waited = time.perf_counter(), self.feed.wait_s
        count = num_evaluation_batches(self.stream, self.place.num_ranks)
        left_out = LeftOut(self.say)
        deliveries = (self.deliver(EVALUATE, step) for _ in range(count))
        batches = (left_out.tensors(one) for one in deliveries if one)
        self.metrics = evaluate_stage(self.stage, self.classes, self.players, batches) | left_out.figures()
        self._evaluated_step = step
        self._logged_at += time.perf_counter() - begin  # training speed excludes evaluation
        self._waited_s += self.feed.wait_s - waited
        self.cores.restart(self.feed.wait_s)
        if self.progress:
            self.progress.evaluation(step, self.metrics)
        return True

    def save(self) -> None:
        """Checkpoint the finished steps; returns when weights are copied out of the device."""
        if self._saved_step == self.counters.step:
            return
        self._saved_step, self._save_due = self.counters.step, False
        engines = {name: trained.engine for name, trained in self.players.items()}
        position = {**vars(self.counters)}
        fresh = self._evaluated_step == self.counters.step  # older figures are those of other weights
        self.checkpointer.save(self.counters.step, engines, position, self.metrics if fresh else {})

    def say(self, text: str) -> None:
        """One line for the user, from the rank that met it."""
        self.show(text if self.place.num_ranks == 1 else f"worker {self.place.rank}: {text}")


def system_of(players: dict[str, Trained]) -> System:
    """The system whose networks the players move."""
    system: System = next(iter(players.values())).engine.module.system
    return system


def evaluate_stage(
    stage: Stage, classes: Classes | None, players: dict[str, Trained], batches: Iterator[Batch]
) -> dict[str, float]:
    """All evaluations that the stage names, in one pass over the batches; equal on all ranks."""
    engine = next(iter(players.values())).engine
    for one in players.values():
        one.engine.eval()
    with torch.no_grad(), ExitStack() as stack:
        for one in players.values():
            stack.enter_context(averaged(one.engine))
        found = evaluators(stage.metrics, classes, lambda texts: engine("embed_texts", {}, texts=texts))
        metrics = evaluated(found, batches, lambda batch: engine("embed", batch))
    for one in players.values():
        one.engine.train()
    return metrics
