"""A node that Ray drains, as a pod does before it ends: a checkpoint is written while it is still there."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import pytest
from head import Head
from story import OPTIONS, until_logged
from tests.house.sources import ROOT

from lumiray.train.manifest import complete

pytestmark = pytest.mark.head


def test_a_node_that_is_drained_has_a_checkpoint_before_it_goes(emoji_shards: Path, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="lr", ignore_cleanup_errors=True) as folder:
        head = Head(Path(folder))
        head.start()
        try:
            own = ("--shards", str(emoji_shards), "--workers", "2", "--output", str(tmp_path))
            code, words = head.submit("drained", ROOT, "jobs/clip_pretrain.py", *OPTIONS, *own)
            assert code == 0, words
            until_logged(head, "drained", "step 2/")
            assert list(complete(str(tmp_path))) == []
            (node,) = json.loads(head.request("/nodes?view=summary")[1])["data"]["summary"]
            words_of_pod = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "the pod ends")
            address = ("--address", f"127.0.0.1:{head.gcs}", "--node-id", node["raylet"]["nodeId"])
            code, words = head.ray("drain-node", *address, *words_of_pod, "--deadline-remaining-seconds", "600")
            assert code == 0, words
            begin = time.monotonic()
            while not list(complete(str(tmp_path))):
                assert time.monotonic() - begin < 90, head.logs("drained")
                time.sleep(0.5)
            until_logged(head, "drained", "a host is about to be taken away", seconds=30)
        finally:
            head.end()
