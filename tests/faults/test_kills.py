"""Rows of a real job that is killed three times, in three ways, on one, two and three workers."""

from __future__ import annotations

import os
from pathlib import Path

from recorded_run import DECODER, DRIVER, THIRD_PARTY, WORKER, RecordedRun

# for Ray's workers, which are started after all test modules were read
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (THIRD_PARTY, os.environ.get("PYTHONPATH"))))


def test_every_row_comes_once_per_epoch_through_kills_and_changes_of_workers(tmp_path: Path, ray_address: str) -> None:
    run = RecordedRun(tmp_path, ray_address)
    run.start(workers=2)
    assert run.kill(DECODER, 11, workers=2)
    assert run.kill(WORKER, 33, workers=2)
    assert run.kill(DRIVER, 58, workers=3)
    assert run.kill(DRIVER, 91, workers=1)
    run.finish()
    counted = run.check()
    assert counted["kills"] == 4
    assert counted["groups"] == 4  # a decoder is mended without a new start
    assert counted["steps_made"] > counted["steps"]  # what was past a checkpoint was done again
