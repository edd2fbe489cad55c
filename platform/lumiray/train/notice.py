"""Notice that a host is about to be taken away, in time for a checkpoint.

It comes from two sides.  A cloud tells the host itself: where the node's environment names the metadata service
(`LUMIRAY_SPOT_NOTICE=http://169.254.169.254` on AWS), each worker asks it for the instance action of spot instances.
And Ray tells Ray Train that a node is drained: an autoscaler does so, or a pod before it ends.  Training goes on after
the checkpoint; when the host is gone, Ray Train starts the workers again elsewhere.
"""

from __future__ import annotations

import os
import threading
import time
import urllib.request
from collections.abc import Callable

ADDRESS = "LUMIRAY_SPOT_NOTICE"
EVERY_S = 5.0  # AWS gives two minutes
ANSWER_S = 2.0
SESSION_S = 21600  # of the metadata service's own token


class Notice:
    """What one worker knows; asking never waits.

    Args:
        address: of the metadata service, or None where there is none.
        drained: whether Ray drains a node of this run; every rank calls it, and all get the same answer.
        asks: True on the rank that decides when all ask Ray.
    """

    def __init__(self, address: str | None, drained: Callable[[], bool], asks: bool) -> None:
        self._drained, self._asks = drained, asks
        self._asked = time.monotonic()
        self._heard = threading.Event()
        self._closed = threading.Event()
        if address:
            threading.Thread(target=self._watch, args=(address,), name="spot-notice", daemon=True).start()

    def heard(self) -> bool:
        """Whether this host's metadata service has announced its end."""
        return self._heard.is_set()

    def due(self) -> bool:
        """Whether it is time for all ranks to ask Ray (`drained`)."""
        return self._asks and time.monotonic() - self._asked > EVERY_S

    def drained(self) -> bool:
        """Ask Ray, together with the other ranks."""
        self._asked = time.monotonic()
        return self._drained()

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()

    def _watch(self, address: str) -> None:
        while not self._closed.is_set():
            if announced(address):
                self._heard.set()
                return
            self._closed.wait(EVERY_S)


def of_this_node(rank: int) -> Notice:
    """The notice of a Ray Train worker on this node."""
    import ray.train

    return Notice(os.environ.get(ADDRESS), lambda: ray.train.get_preemption_info() is not None, rank == 0)


def announced(address: str) -> bool:
    """Whether a metadata service announces that this instance is stopped or taken away (IMDSv2 of AWS)."""
    asked = urllib.request.Request(
        f"{address}/latest/api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": str(SESSION_S)}
    )
    try:
        with urllib.request.urlopen(asked, timeout=ANSWER_S) as answer:
            headers = {"X-aws-ec2-metadata-token": answer.read().decode()}
        action = urllib.request.Request(f"{address}/latest/meta-data/spot/instance-action", headers=headers)
        with urllib.request.urlopen(action, timeout=ANSWER_S) as answer:
            return bool(answer.read().strip())
    except (OSError, ValueError):  # 404 while nothing is announced; a service that is away announces nothing
        return False
