"""What arrives is what was planned: real pipelines of Ray Data, rows known by what their pixels say.

The pictures carry the numbers of their rows, which are read back from the tensors that a training loop gets.
Their system is a third party's (`third_party/`), found by the decoders through its entry point.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lumiray.data.buckets import Buckets
from lumiray.data.decoder import Decoder, Draw
from lumiray.data.entries import EVALUATE, READ_BLOCKS, TRAIN, StreamSpec, num_evaluation_batches, rank_rows
from lumiray.data.feed import Delivery, Feed
from lumiray.data.index import ShardSet
from lumiray.data.listing import expand
from lumiray.data.plan import Plan, PlanSettings, Source
from lumiray.data.stream import Decoders, evaluation_items, items
from lumiray.system import Row
from lumiray.train.worker import user_error_behind

THIRD_PARTY = str(Path(__file__).with_name("third_party"))
# for Ray's workers, which are started after all test modules were read; here it is not left on the path
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (THIRD_PARTY, os.environ.get("PYTHONPATH"))))
sys.path.insert(0, THIRD_PARTY)
from numbered import shards
from numbered.config import NumberedConfig
from numbered.picture import numbers_in
from numbered.watched import WatchedSpec

sys.path.remove(THIRD_PARTY)

COUNTS, ROWS = (167, 201, 132), 500
BAD = frozenset(range(17, ROWS, 31))  # cut off, empty or without a picture
VALIDATION_COUNTS, VALIDATION_ROWS, FIRST_VALIDATION = (30, 23), 53, 10_000
VALIDATION_BAD = frozenset({4, 51})
MICRO_BATCHES, MICRO_BATCH, STEPS, EVERY = 24, 8, 6, 2
BATCH = MICRO_BATCHES * MICRO_BATCH
SMALL = Decoders(cpus=0.1)  # eight pipelines fit on the two cores of the tests' cluster


def write_shards(folder: Path, counts: tuple[int, ...], bad: frozenset[int], first: int = 0) -> ShardSet:
    """Numbered pictures; `bad` are row ordinals."""
    shards.write_shards(folder, counts, bad, first)
    return ShardSet.open(expand(str(folder)))


@pytest.fixture(scope="module")
def spec(ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> StreamSpec:
    """Six steps of 192 rows, 500 rows of which some are bad, an evaluation after every second step."""
    base = tmp_path_factory.mktemp("stream")
    training = write_shards(base / "train", COUNTS, BAD)
    return StreamSpec(
        slug="numbered",
        system_config=NumberedConfig(),
        stage="look",
        plan=Plan((Source("shards", ROWS),), PlanSettings(4, 64), BATCH, MICRO_BATCH, seed=3),
        sources=(training,),
        seed=3,
        total_steps=STEPS,
        validation=write_shards(base / "validation", VALIDATION_COUNTS, VALIDATION_BAD, FIRST_VALIDATION),
        evaluation_batch_size=8,
        evaluate_every=EVERY,
    )


@dataclass
class Received:
    """A step or an evaluation batch of all ranks: their tensors joined in the order of ranks."""

    kind: str
    step: int
    arrays: dict[str, np.ndarray]
    bad: list[dict[str, Any]]

    @property
    def numbers(self) -> np.ndarray:
        """Which rows these are, from their pixels."""
        return numbers_in(self.arrays["pixels"])

    def same_as(self, other: Received) -> bool:
        """Equal bit for bit, and by the same substitutes."""
        assert self.arrays.keys() == other.arrays.keys()
        names = self.arrays.keys() - {"process"}
        return (self.kind, self.step, self.bad) == (other.kind, other.step, other.bad) and all(
            self.arrays[name].tobytes() == other.arrays[name].tobytes() for name in names
        )


@contextmanager
def feeds_of(spec: StreamSpec, num_ranks: int, first_step: int = 0, decoders: Decoders = SMALL) -> Iterator[list[Feed]]:
    """A running feed for every rank."""
    low, high = rank_rows(spec.plan, 0, num_ranks)
    with ExitStack() as stack:
        feeds = []
        for rank in range(num_ranks):
            stream = items(spec, rank, num_ranks, first_step, decoders)
            feeds.append(Feed(stream, high - low, torch.device("cpu")))
            stack.callback(feeds[-1].close)
        yield feeds


def joined(deliveries: list[Delivery]) -> Received:
    names = deliveries[0].tensors
    arrays = {name: np.concatenate([one.tensors[name].numpy() for one in deliveries]) for name in names}
    return Received(deliveries[0].kind, deliveries[0].step, arrays, [row for one in deliveries for row in one.bad])


def receive(
    spec: StreamSpec,
    num_ranks: int,
    first_step: int = 0,
    decoders: Decoders = SMALL,
    after: Callable[[Received], None] = lambda received: None,
) -> list[Received]:
    """All that the ranks' training loops get, in its order, to the end; evaluations are joined to one each.

    Args:
        after: called with each step as it arrives.
    """
    found = []
    with feeds_of(spec, num_ranks, first_step, decoders) as feeds:
        for step in range(first_step, spec.total_steps):
            found.append(joined([feed.take(TRAIN, step) for feed in feeds]))
            after(found[-1])
            if spec.evaluation_due(step + 1):
                batches = range(num_evaluation_batches(spec, num_ranks))
                found.append(joined([feed.take(EVALUATE, step + 1) for feed in feeds for _ in batches]))
        for feed in feeds:
            with pytest.raises(RuntimeError, match="the stream gave its end"):
                feed.take(TRAIN, spec.total_steps)
    return found


@pytest.fixture(scope="module")
def received_on(spec: StreamSpec) -> Callable[[int], list[Received]]:
    """What so many ranks receive of the whole run; each number of ranks runs once."""
    return cache(lambda num_ranks: receive(spec, num_ranks))


def steps_of(received: list[Received]) -> list[Received]:
    return [one for one in received if one.kind == TRAIN]


def check_epochs(steps: list[Received]) -> None:
    """Every epoch's rows are the shards' contents, but at positions that are logged as replaced."""
    numbers = np.concatenate([step.numbers for step in steps])
    logged: dict[int, list[int]] = {}
    starts = np.cumsum((0, *COUNTS))
    for row in (row for step in steps for row in step.bad):
        ordinal = int(starts[int(row["shard"][:5])]) + row["row"]
        assert ordinal in BAD and row["reason"]
        logged.setdefault(row["position"], []).append(ordinal)
    whole = len(numbers) // ROWS
    assert whole >= 2
    for epoch in range(whole):
        positions = range(epoch * ROWS, (epoch + 1) * ROWS)
        kept = [int(numbers[position]) for position in positions if position not in logged]
        replaced = [logged[position][0] for position in positions if position in logged]
        assert sorted(kept) == sorted(set(range(ROWS)) - BAD)
        assert sorted(replaced) == sorted(BAD)
    assert not BAD & set(numbers.tolist())  # substitutes are good rows


@pytest.mark.parametrize("num_ranks", [2, 3, 4, 8])
def test_any_number_of_ranks_receives_the_same_global_batches_bit_for_bit(
    received_on: Callable[[int], list[Received]], num_ranks: int
) -> None:
    alone, shared = steps_of(received_on(1)), steps_of(received_on(num_ranks))
    assert len(alone) == len(shared) == STEPS
    for one, other in zip(alone, shared, strict=True):
        assert len(one.numbers) == BATCH
        assert one.same_as(other), one.step


def test_each_epoch_is_the_shards_contents_and_the_last_batch_goes_on_into_the_next(
    received_on: Callable[[int], list[Received]],
) -> None:
    steps = steps_of(received_on(1))
    check_epochs(steps)
    assert ROWS % BATCH  # the third batch holds the end of the first epoch and the beginning of the second
    rows = np.concatenate([step.arrays["row"] for step in steps])
    assert np.array_equal(rows, np.concatenate([step.numbers for step in steps]))


def test_a_mixture_gives_each_micro_batch_its_quotas_and_each_source_its_own_exact_epochs(
    spec: StreamSpec, tmp_path: Path
) -> None:
    drawings = write_shards(tmp_path / "drawings", (40, 61), frozenset({7}), first=20_000)
    sources = (Source("photos", ROWS, 3.0), Source("drawings", 101, 1.0))
    mixed = replace(
        spec,
        plan=Plan(sources, PlanSettings(4, 64), BATCH, MICRO_BATCH, seed=3),
        sources=(*spec.sources, drawings),
        validation=None,
        total_steps=4,
    )
    whole = receive(mixed, 3)
    resumed = receive(mixed, 2, first_step=2)
    assert all(one.same_as(other) for one, other in zip(resumed, whole[2:], strict=True))

    source = np.concatenate([step.arrays["source"] for step in whole])
    assert (source.reshape(-1, MICRO_BATCH).sum(axis=1) == MICRO_BATCH // 4).all()
    numbers = np.concatenate([step.numbers for step in whole])
    assert ((numbers >= 20_000) == (source == 1)).all()  # substitutes come from the same source, too
    drawn_rows = numbers[source == 1] - 20_000
    bad = [row for step in whole for row in step.bad if row["shard"].startswith("drawings: ")]
    assert {(row["shard"], row["row"]) for row in bad} == {("drawings: 00000.tar", 7)}
    first_epoch = np.flatnonzero(source == 1)[:101]  # 192 of its rows are delivered: one epoch and most of a second
    replaced = [place for place in first_epoch if place in {row["position"] for row in bad}]
    kept = sorted(drawn_rows[:101][~np.isin(first_epoch, replaced)].tolist())
    assert kept == sorted(set(range(101)) - {7})
    assert sum(row["shard"].startswith("photos: ") for row in (row for step in whole for row in step.bad)) > 0


def test_rows_of_two_sources_never_pass_for_the_same_row(spec: StreamSpec, tmp_path: Path) -> None:
    other = write_shards(tmp_path / "other", (30,), frozenset(), first=20_000)
    sources = (Source("photos", ROWS), Source("other", 30))
    plan = Plan(sources, PlanSettings(4, 64), BATCH, MICRO_BATCH, seed=3)
    decoder = Decoder.__new__(Decoder)  # the system is one of the decoders' processes, not of this one
    decoder.spec = replace(spec, plan=plan, sources=(*spec.sources, other))
    seen: list[int] = []

    class Watched:
        def prepare(self, stage: Any, row: Row, draw: Any) -> dict[str, Any]:
            seen.append(row.identity)
            return {}

    decoder.system, decoder.stage = Watched(), None  # type: ignore[assignment]
    for number, source in enumerate(decoder.spec.sources):
        for row in source.read(np.arange(30)):
            if isinstance(row, Row):
                decoder.prepare(row, Draw(number, row.identity, 0))
    assert len(set(seen)) == len(seen) > 50


def test_a_row_is_augmented_anew_in_every_epoch(received_on: Callable[[int], list[Received]]) -> None:
    steps = steps_of(received_on(1))
    numbers = np.concatenate([step.numbers for step in steps])
    pixels = np.concatenate([step.arrays["pixels"] for step in steps])
    first, second = ({int(numbers[at]): at for at in range(epoch * ROWS, (epoch + 1) * ROWS)} for epoch in (0, 1))
    both = first.keys() & second.keys()
    assert len(both) >= ROWS - len(BAD)
    assert not any(np.array_equal(pixels[first[row]], pixels[second[row]]) for row in both)


def test_a_stream_begun_in_mid_epoch_on_another_number_of_ranks_goes_on_as_the_uncut_one(
    spec: StreamSpec, received_on: Callable[[int], list[Received]]
) -> None:
    begin = 3
    assert begin * BATCH % ROWS  # in the middle of the second epoch
    uncut = [one for one in steps_of(received_on(3)) if one.step >= begin]
    resumed = steps_of(receive(spec, 2, first_step=begin))
    assert len(resumed) == STEPS - begin
    assert all(one.same_as(other) for one, other in zip(resumed, uncut, strict=True))


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 8])
def test_evaluations_come_in_their_place_and_hold_every_row_once(
    received_on: Callable[[int], list[Received]], num_ranks: int
) -> None:
    received = received_on(num_ranks)
    order = [(one.kind, one.step) for one in received]
    assert order[:4] == [(TRAIN, 0), (TRAIN, 1), (EVALUATE, 2), (TRAIN, 2)]
    evaluations = [one for one in received if one.kind == EVALUATE]
    assert [one.step for one in evaluations] == [2, 4, 6]
    for one in evaluations:
        valid = one.arrays["valid"]
        assert len(valid) % (8 * num_ranks) == 0  # whole batches, equally many on every rank
        good = [row for row in range(VALIDATION_ROWS) if row not in VALIDATION_BAD]
        assert (one.numbers[valid] - FIRST_VALIDATION).tolist() == good
        assert one.arrays["row"][valid].tolist() == good
        places = {(row["shard"], row["row"]) for row in one.bad}
        assert places == {("00000.tar", 4), ("00001.tar", 51 - 30)}  # masked and named, not replaced
        assert (one.arrays["drawn"] == 0).all()  # nothing random in evaluation


def test_an_evaluation_by_itself_is_the_one_between_training_steps(
    spec: StreamSpec, received_on: Callable[[int], list[Received]]
) -> None:
    between = next(one for one in received_on(1) if one.kind == EVALUATE)
    alone = list(evaluation_items(spec, 0, 1, SMALL))
    assert all(item.entry.step == 0 for item in alone)
    for name in between.arrays.keys() - {"process"}:
        assert np.array_equal(np.concatenate([item.arrays[name] for item in alone]), between.arrays[name])


def test_a_bad_row_stops_the_run_by_its_address_where_that_is_asked_for(spec: StreamSpec) -> None:
    with pytest.raises(Exception, match=r"--data\.bad-rows skip") as raised:
        receive(replace(spec, fail_on_bad_row=True), 1)
    message = str(user_error_behind(raised.value))
    starts = np.cumsum((0, *COUNTS))
    found = np.searchsorted(starts, sorted(BAD), side="right") - 1
    named = [
        f"{shard:05d}.tar, row {row - starts[shard]} (key '{shard}-{row}')"
        for shard, row in zip(found, sorted(BAD), strict=True)
    ]
    assert any(message.startswith(one) for one in named), message


def test_decoders_that_are_killed_lose_nothing_and_repeat_nothing(
    spec: StreamSpec, received_on: Callable[[int], list[Received]], tmp_path: Path
) -> None:
    plan = spec.plan
    # one dies at a row, as from memory; one that has delivered is killed from outside
    crash_at = next(int(row) for row in plan.batch(7).row if row not in BAD)
    config = NumberedConfig(journal=str(tmp_path / "journal"), crash_at=crash_at)
    long = replace(spec, system_config=config, total_steps=24, validation=None)
    processes: set[int] = set()
    killed: list[int] = []

    def kill_one(received: Received) -> None:
        found = set(received.arrays["process"].tolist())
        for process in found - processes if not killed else ():
            with suppress(ProcessLookupError):  # it is the one that died by itself
                os.kill(process, signal.SIGKILL)
                killed.append(process)
        processes.update(found)

    steps = receive(long, 1, decoders=Decoders(2, 2, 0.1), after=kill_one)
    assert killed
    assert (tmp_path / "journal.crashed").exists()
    assert len(processes) > 2
    check_epochs(steps)
    for one, other in zip(steps, steps_of(received_on(1)), strict=False):
        assert one.same_as(other), one.step


def test_a_row_that_ends_every_process_is_replaced_and_named_and_all_others_come(
    spec: StreamSpec, received_on: Callable[[int], list[Received]]
) -> None:
    plan = spec.plan
    deadly = next(int(row) for row in plan.batch(1).row if row not in BAD)
    config = NumberedConfig(deadly=deadly)
    steps = receive(replace(spec, system_config=config, total_steps=2, validation=None), 1)
    positions = np.concatenate([plan.batch(step).position for step in range(2)])
    place = int(np.flatnonzero(np.concatenate([plan.batch(step).row for step in range(2)]) == deadly)[0])
    (told,) = (row for step in steps for row in step.bad if row["position"] == positions[place])
    starts = np.cumsum((0, *COUNTS))
    assert int(starts[int(told["shard"][:5])]) + told["row"] == deadly
    assert told["reason"] == "it ended the process that decoded it 2 times"
    found, wanted = (np.concatenate([one.numbers for one in some]) for some in (steps, steps_of(received_on(1))[:2]))
    assert np.flatnonzero(found != wanted).tolist() == [place]


def test_decoders_wait_for_a_loop_that_takes_nothing_and_go_when_it_ends(spec: StreamSpec, tmp_path: Path) -> None:
    import ray

    journal, planned = tmp_path / "journal", tmp_path / "planned"
    config = NumberedConfig(journal=str(journal))
    told = {name: getattr(spec, name) for name in StreamSpec.__dataclass_fields__}
    told |= {"system_config": config, "total_steps": 100_000, "evaluate_every": 0}
    watched = WatchedSpec(**told, planned=str(planned))
    cpus = ray.cluster_resources()["CPU"]
    with feeds_of(watched, 1) as feeds:
        feed = feeds[0]
        feed.take(TRAIN, 0)
        count, now = -1, 0
        while count < now <= 2 * SMALL.window:  # until they decode no more
            time.sleep(2)
            count, now = now, len(journal.read_text().splitlines())
        # what the window holds, and what the feed and Ray's iterator have taken already
        assert now <= 2 * SMALL.window
        # and lines of the plan that Ray's generator and the pool hold ready; steps are of two entries
        lines = READ_BLOCKS + SMALL.window // READ_BLOCKS
        assert len(planned.read_text().splitlines()) * 2 <= 2 * SMALL.window + READ_BLOCKS * lines
        busy = time.process_time()
        time.sleep(3)
        assert time.process_time() - busy < 1.5  # of Ray's loop in this process, which has nothing to do
        for step in range(1, 20):  # and they go on when the loop does
            feed.take(TRAIN, step)
    gc.collect()  # the traceback of an error holds what the error ended
    for _ in range(100):
        if ray.available_resources().get("CPU") == cpus:
            break
        time.sleep(0.3)
    assert ray.available_resources()["CPU"] == cpus


def test_buckets_go_on_in_the_middle_of_a_window_on_other_ranks(spec: StreamSpec) -> None:
    shapes = np.random.default_rng(0).integers(50, 900, (ROWS, 2)).astype(np.uint16)
    few = replace(spec, plan=spec.plan.bucketed(Buckets(4, (shapes,), 4, 3)), total_steps=4, validation=None)
    whole = receive(few, 1)
    assert all(one.same_as(again) for one, again in zip(whole[2:], receive(few, 2, first_step=2), strict=True))
    planned = [few.plan.batch(one.step).row for one in whole]
    assert all(((one.numbers == row) | np.isin(row, list(BAD))).all() for one, row in zip(whole, planned, strict=True))
