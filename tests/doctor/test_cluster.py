"""What the doctor says of the cluster, and the whole of it as a user runs it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lumiray.doctor import cluster
from lumiray.doctor.finding import FAIL, OK, Finding
from lumiray.doctor.nodes import examine, gathered, marked
from lumiray.errors import RunFailure, UserError
from lumiray.train import cluster as joining

ROOT = Path(__file__).resolve().parents[2]


def test_an_address_that_is_no_clusters_is_refused_with_what_it_should_be(ray_address: str) -> None:
    joining.check_address(ray_address)
    joining.check_address("auto")
    with pytest.raises(UserError, match=r"that is the dashboard.*Set it to HEAD:6379"):
        joining.check_address("http://127.0.0.1:8265")
    with pytest.raises(UserError, match=r"'head', which is no HOST:PORT"):
        joining.check_address("head")


def test_a_port_where_no_cluster_listens_is_said_and_not_asked_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(RunFailure, match=rf"RAY_ADDRESS is {address}, and no cluster answers there\. Set it to"):
            joining.check_address(address)
        free.listen()  # somebody is there, and does not speak Ray's language
        monkeypatch.setattr(joining, "ANSWER_S", 1.0)
        with pytest.raises(RunFailure, match="no cluster answers there"):
            joining.check_address(address)


def test_processes_of_the_cluster_keep_the_folders_that_python_has_from_its_environment(tmp_path: Path) -> None:
    script = (
        "import os; from lumiray.train.cluster import start_ray; start_ray(); import ray\n"
        "print(ray.get(ray.remote(lambda: os.getenv('PYTHONPATH')).remote()))"
    )
    paths = os.pathsep.join((f"{ROOT}/platform", str(tmp_path)))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout.split()[-1].split(os.pathsep)


def test_a_cluster_that_starts_no_process_is_said_and_not_waited_for(
    ray_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray_address)
    monkeypatch.setattr(joining, "PROCESS_S", 0.0)
    found = cluster.ray_cluster()
    assert found.state == FAIL and "no process of the cluster has started in 60 s" in found.words


def test_workers_of_the_cluster_sum_what_they_should(ray_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray_address)
    assert cluster.ray_cluster().words.startswith("1 node(s), 2 cores, 0 GPUs, Ray 2.")
    found = cluster.all_reduce()
    assert found.state == OK, found
    assert found.words.startswith("2 workers over gloo sum 64 MiB at ")


def test_a_cluster_in_use_is_not_waited_for(ray_address: str) -> None:
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    everything = placement_group([{"CPU": 2}])
    ray.get(everything.ready())
    while ray.available_resources().get("CPU"):  # the count follows a moment later
        time.sleep(0.05)
    try:
        found = cluster.all_reduce()
    finally:
        remove_placement_group(everything)
    assert "all cores of the cluster are in use" in found.words
    assert found.mend == "try again when it is idle"


def test_what_a_worker_raised_is_said_and_not_what_was_wrapped_around_it() -> None:
    inner = ConnectionError("connect to 10.0.0.2 timed out")
    outer = RuntimeError("Worker group failed")
    outer.worker_failures = {0: inner}
    assert cluster.cause_of(outer) is inner


def test_the_checks_of_a_node_run_as_a_task_of_the_cluster(ray_address: str, tmp_path: Path) -> None:
    import ray

    task = ray.remote(num_cpus=0)(examine)
    with marked(str(tmp_path / "runs")) as mark:
        assert mark and Path(mark).parent == tmp_path
        found = ray.get(task.remote(str(tmp_path / "runs"), mark))
        elsewhere = examine(str(tmp_path / "runs"), mark + "-of-another-disk")
    assert [one.name for one in found] == ["versions", "compiler", "shared memory", "disk", "output"]
    assert found[-1].state == OK
    assert elsewhere[-1].state == FAIL
    assert "is another folder there than here" in elsewhere[-1].words and "s3://" in elsewhere[-1].mend
    assert [*tmp_path.iterdir()] == []


def test_the_same_trouble_of_many_nodes_is_one_line() -> None:
    fine = [Finding("versions", OK, "ray 2"), Finding("compiler", OK, "c++")]
    odd = [Finding("versions", OK, "ray 1"), Finding("compiler", FAIL, "no c++", "install it")]
    assert [*gathered({"a": fine, "b": fine}, "ray 2")] == [
        Finding("other nodes", OK, "2 looked at, nothing wrong: versions, compiler")
    ]
    found = [*gathered({"a": fine, **dict.fromkeys("bcdef", odd)}, "ray 2")]
    assert found == [
        Finding(
            "other nodes", FAIL, "5 of 6 (b, c, d, e, ...): versions: ray 1", "install the same versions on every node"
        ),
        Finding("other nodes", FAIL, "5 of 6 (b, c, d, e, ...): compiler: no c++", "install it"),
    ]


def test_the_command_says_every_line_and_fails_where_one_fails(tmp_path: Path) -> None:
    environment = os.environ | {"RAY_ADDRESS": "127.0.0.1:1", "AWS_SECRET_ACCESS_KEY": "hush-hush"}
    output = ["--output", f"{tmp_path}/hush-hush", "--shards", "nowhere.tar", "elsewhere.tar"]
    done = subprocess.run(
        [sys.executable, "-m", "lumiray", "doctor", *output],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": "platform:models"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    names = [line[6:20].strip() for line in done.stdout.splitlines()]
    assert names == [
        "versions",
        "compiler",
        "gpus",
        "shared memory",
        "disk",
        "output",
        "shards",
        "ray cluster",
        "all-reduce",
    ]
    assert [line[:4] for line in done.stdout.splitlines()[6:]] == ["FAIL", "FAIL", "note"]
    assert "There is no shard nowhere.tar" in done.stdout
    assert done.stderr.strip() == "error: 2 checks failed; what to do stands in their line."
    assert "hush-hush" not in done.stdout and "***" in done.stdout
