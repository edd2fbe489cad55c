"""All checks in turn: of this machine, of the places that a run reads and writes, of the cluster."""

from __future__ import annotations

from collections.abc import Iterator

from lumiray.doctor.cluster import all_reduce, ray_cluster
from lumiray.doctor.finding import FAIL, NOTE, Finding, guarded
from lumiray.doctor.machine import compiler, gpus, shared_memory, versions
from lumiray.doctor.nodes import other_nodes
from lumiray.doctor.places import disk, output_access, shards_access
from lumiray.errors import RunFailure

REINSTALL = "make env, or pip install lumiray again"


def findings(output: str | None, shards: str | None) -> Iterator[Finding]:
    """Every check in turn; later ones run even if earlier ones failed.

    Args:
        output: where a run would write, local or s3://; None leaves that check out.
        shards: what a run would read; None leaves that check out.
    """
    yield guarded("versions", versions, REINSTALL)
    yield guarded("compiler", compiler, "set CXX to a C++ compiler that works")
    yield guarded("gpus", gpus, REINSTALL)
    yield guarded("shared memory", shared_memory, "mount /dev/shm")
    yield guarded("disk", disk, "make room, or set TMPDIR to a folder that can be written")
    if output:
        yield guarded("output", lambda: output_access(output), "try another --output")
    if shards:
        yield guarded("shards", lambda: shards_access(shards), "look at them with `lumiray shards info`")
    cluster = guarded("ray cluster", ray_cluster, "see /tmp/ray/session_latest/logs, or `ray stop` and try again")
    yield cluster
    if cluster.state == FAIL:
        yield Finding("all-reduce", NOTE, "not tried, for there is no cluster to try it on")
        return
    yield from other_nodes(output)
    yield guarded("all-reduce", all_reduce, "see /tmp/ray/session_latest/logs")


def run_doctor(output: str | None, shards: str | None) -> None:
    """Print the findings as they come.

    Raises:
        RunFailure: a check failed.
    """
    failed = 0
    for finding in findings(output, shards):
        print(finding, flush=True)
        failed += finding.state == FAIL
    if failed:
        raise RunFailure(
            f"{failed} check{'s' * (failed > 1)} failed; what to do stands in {'their' if failed > 1 else 'its'} line."
        )
    print("ready to train")
