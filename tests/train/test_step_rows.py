"""The rows of a step as messages name them: by shard, of every source, and not more than one reads."""

from __future__ import annotations

import re

import numpy as np

from lumiray.data.entries import StreamSpec
from lumiray.data.index import ShardSet
from lumiray.data.listing import Listed
from lumiray.data.plan import Plan, PlanSettings, Source
from lumiray.train.step_rows import NAMED, rows_of_step


def stream(batch: int, *rows: tuple[int, ...]) -> StreamSpec:
    """A source for every tuple, which holds how many rows each of its shards has."""
    sets = []
    for counts in rows:
        listed = [Listed(f"nowhere/{number}.tar", 1, "") for number in range(len(counts))]
        sets.append(ShardSet(listed, np.array(counts), [str(number) for number in range(len(counts))], None))
    sources = [Source(f"source{number}", sum(counts)) for number, counts in enumerate(rows)]
    plan = Plan(sources, PlanSettings(), batch, batch, 0)
    return StreamSpec("none", None, "none", plan, tuple(sets), 0, 1)


def test_every_row_is_named_below_its_shard() -> None:
    told = rows_of_step(stream(5, (4, 1)), 0)  # one epoch is one step
    assert told == "0.tar rows 0, 1, 2, 3; 1.tar row 0"


def test_rows_of_a_mixture_are_named_with_their_source() -> None:
    told = rows_of_step(stream(4, (2,), (2,)), 0)
    assert told == "source0: 0.tar rows 0, 1; source1: 0.tar rows 0, 1"


def test_of_a_large_batch_some_are_named_and_the_others_counted() -> None:
    told = rows_of_step(stream(100, (500,)), 1)
    assert len(re.findall(r"\d+(?=,| and)", told)) == NAMED
    assert told.endswith(f" and {100 - NAMED} more")
