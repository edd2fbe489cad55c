"""Checks of the cluster's other nodes: the machine's and the output's, run there as Ray tasks."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lumiray.doctor.finding import FAIL, OK, Finding, guarded, in_one_line
from lumiray.doctor.machine import compiler, shared_memory, versions
from lumiray.doctor.places import disk, nearest_folder, output_access
from lumiray.storage import is_s3, local_path

ANSWER_S = 180.0
SUBMIT = "send the code with `ray job submit --working-dir .`, or install lumiray on every node"


def other_nodes(output: str | None) -> Iterator[Finding]:
    """One line on all other nodes, or one for each kind of trouble on them; nothing on a cluster of one."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    if not others:
        return
    task = ray.remote(num_cpus=0, max_retries=0)(examine)
    with marked(output) as mark:
        asked = {}
        for node in others:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[task.options(scheduling_strategy=there).remote(output, mark)] = str(node["NodeManagerAddress"])
        ray.wait([*asked], num_returns=len(asked), timeout=ANSWER_S)
        found = {address: _answer(answer) for answer, address in asked.items()}
    yield from gathered(found, versions().words)


@contextmanager
def marked(output: str | None) -> Iterator[str | None]:
    """While inside, a local output holds a file that other nodes see if it is the same folder for them."""
    if output is None or is_s3(output):
        yield None
        return
    mark = os.path.join(nearest_folder(local_path(output)), f".lumiray-doctor-{secrets.token_hex(6)}")
    try:
        Path(mark).touch()
    except OSError:  # the check of the output has said why
        yield None
        return
    try:
        yield mark
    finally:
        os.unlink(mark)


def examine(output: str | None, mark: str | None) -> list[Finding]:
    """All checks of the node that it runs on.

    Args:
        mark: a file of this machine that must be there too, for the output is a local folder.
    """
    checks = [
        guarded("versions", versions, SUBMIT),
        guarded("compiler", compiler, "apt-get install g++"),
        guarded("shared memory", shared_memory, "mount /dev/shm"),
        guarded("disk", disk, "set TMPDIR to a folder that can be written"),
    ]
    if mark and not os.path.exists(mark):
        words = f"{output} is another folder there than here"
        checks.append(Finding("output", FAIL, words, "use a folder that all nodes share, or s3://"))
    elif output:
        checks.append(guarded("output", lambda: output_access(output), "check the rights of the output"))
    return checks


def _answer(reference: Any) -> list[Finding]:
    import ray

    try:
        answer: list[Finding] = ray.get(reference, timeout=0)
        return answer
    except ray.exceptions.GetTimeoutError:
        return [Finding("node", FAIL, f"no answer in {ANSWER_S:.0f} s", "see whether it is overloaded")]
    except Exception as error:  # code that is not there, a node that went away
        return [Finding("node", FAIL, in_one_line(error), SUBMIT)]


def gathered(found: dict[str, list[Finding]], own_versions: str) -> Iterator[Finding]:
    """What all nodes say, the same trouble of several nodes in one line.

    Args:
        found: address of a node -> its findings.
        own_versions: versions on this machine, which the others must have.
    """
    troubles: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for address, findings in found.items():
        for one in findings:
            if one.name == "versions" and one.state == OK and one.words != own_versions:
                one = Finding("versions", FAIL, one.words, "install the same versions on every node")
            if one.state != OK:
                troubles.setdefault((one.name, one.state, one.mend), []).append((address, one.words))
    for (name, state, mend), places in troubles.items():
        addresses = ", ".join(address for address, _ in places[:4]) + (", ..." if len(places) > 4 else "")
        yield Finding(
            "other nodes", state, f"{len(places)} of {len(found)} ({addresses}): {name}: {places[0][1]}", mend
        )
    if not troubles:
        names = ", ".join(one.name for one in next(iter(found.values())))
        yield Finding("other nodes", OK, f"{len(found)} looked at, nothing wrong: {names}")
