"""Neither a steady stream nor a consumer that stands still fills the object store or the memory of a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lumiray.data.stream import TAKEN

STORE_SHARE_MB = 524.0  # which the stream may take: half of the store
BLOCK_MB = 19.4
NOISE_MB = 12.0  # of an interpreter that does nothing


@pytest.mark.slow
def test_a_consumer_that_stalls_for_a_minute_grows_neither_store_nor_memory(tmp_path: Path) -> None:
    script = str(Path(__file__).with_name("stalled_run.py"))
    done = subprocess.run([sys.executable, script, str(tmp_path), "60"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for when in ("steady", "calm", "stalled", "after"):
        assert found[when]["spilled_mb"] == 0, found
        assert found[when]["used_mb"] <= STORE_SHARE_MB + (TAKEN + 4) * BLOCK_MB, found  # and two steps in the feed
    assert found["stalled"]["used_mb"] <= found["calm"]["used_mb"], found
    before, after = found["calm"]["memory_mb"], found["stalled"]["memory_mb"]
    assert {"driver", "Pipeline"} <= before.keys()
    for kind in after.keys() & before.keys():
        assert after[kind] <= before[kind] + NOISE_MB, (kind, found)
