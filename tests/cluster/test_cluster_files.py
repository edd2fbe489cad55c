"""The files that make clusters: accepted by Ray, closed to strangers, with exactly the environment of the lock."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.house.sources import ROOT

AWS, LOCAL, KUBERAY = ROOT / "cluster.yaml", ROOT / "cluster" / "local-hosts.yaml", ROOT / "cluster" / "kuberay.yaml"
LAUNCHED = (AWS, LOCAL)  # by `ray up`


def load(file: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(file.read_text())
    return loaded


def kuberay() -> tuple[dict[str, Any], dict[str, Any]]:
    cluster, job = yaml.safe_load_all(KUBERAY.read_text())
    return cluster, job


def pods(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    spec = cluster["spec"]
    return [one["template"]["spec"] for one in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


@pytest.mark.parametrize("file", LAUNCHED, ids=lambda file: file.name)
def test_ray_up_accepts_the_file(file: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(load(file)))


@pytest.mark.parametrize("file", LAUNCHED, ids=lambda file: file.name)
def test_a_cluster_asks_for_the_token_shows_its_dashboard_to_nobody_and_waits_for_checkpoints(file: Path) -> None:
    config = load(file)
    head, worker = config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]
    assert "RAY_AUTH_MODE=token" in head and "RAY_AUTH_MODE=token" in worker
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "--dashboard-host=127.0.0.1" in head
    assert int(re.findall(r"RAY_JOB_STOP_WAIT_TIME_S=(\d+)", head)[0]) >= 60
    assert "--metrics-export-port=" in head and "--metrics-export-port=" in worker


@pytest.mark.parametrize("file", LAUNCHED, ids=lambda file: file.name)
def test_nodes_have_exactly_the_lock_and_nothing_of_this_project(file: Path) -> None:
    config = load(file)
    mounted = {local for local in config["file_mounts"].values() if not local.startswith("~")}
    assert mounted == {"requirements.lock"} and (ROOT / "requirements.lock").exists()
    synced = [one for one in config["setup_commands"] if "pip sync" in one]
    assert len(synced) == 1
    assert synced[0].endswith("--require-hashes ~/requirements.lock")


@pytest.mark.parametrize("file", [*LAUNCHED, KUBERAY], ids=lambda file: file.name)
def test_no_file_holds_a_key(file: Path) -> None:
    assert not re.search(r"AKIA|aws_secret|SECRET_ACCESS_KEY|auth_token:\s*[0-9a-f]{8}", file.read_text())


def test_the_head_has_no_gpu_and_takes_no_work() -> None:
    config = load(AWS)
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert kuberay()[0]["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def launched(unavailable: dict[str, float]) -> dict[str, int]:
    """Nodes by type that Ray's autoscaler starts on an empty cluster of the file for 64 workers with a GPU each.

    Args:
        unavailable: node type -> score of types that could not be had lately, 0 just now.
    """
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    config = AutoscalingConfig(load(AWS), skip_content_hash=True)
    requests = ResourceRequestUtil.group_by_count([ResourceRequestUtil.make({"GPU": 1, "CPU": 1})] * 64)
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_worker_nodes(),
            resource_requests=requests,
            cloud_resource_availabilities=unavailable,
            recoverable_resource_availabilities=unavailable,
        )
    )
    return {one.instance_type: one.count for one in reply.to_launch}


def test_spot_instances_come_first_and_on_demand_ones_where_there_are_none() -> None:
    assert launched({}).get("gpu-spot") == 8
    assert "gpu-on-demand" not in launched({})
    found = launched({"gpu-spot": 0.0})
    assert found["gpu-on-demand"] == 6  # besides the two that are always asked for
    assert found["gpu-spot"] == 2


def test_nodes_reach_s3_by_a_role_and_talk_over_efa() -> None:
    config = load(AWS)
    for name, kind in config["available_node_types"].items():
        node = kind["node_config"]
        assert "Name" in node["IamInstanceProfile"], name
        assert node["MetadataOptions"]["HttpTokens"] == "required", name
        if kind["resources"].get("GPU"):
            cards = node["NetworkInterfaces"]
            assert [one["NetworkCardIndex"] for one in cards] == list(range(len(cards)))
            assert {one["InterfaceType"] for one in cards} == {"efa"}
    assert "FI_PROVIDER=efa" in config["worker_start_ray_commands"][-1]


def test_ray_reads_the_groups_of_the_kubernetes_cluster_as_meant() -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    types = _derive_autoscaling_config_from_ray_cr(kuberay()[0])["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types["gpu"]["resources"]["GPU"] == 8 and types["gpu"]["min_workers"] == 2
    assert "GPU" not in types["cpu"]["resources"] and types["cpu"]["min_workers"] == 0


def test_the_kubernetes_job_runs_on_the_kubernetes_cluster() -> None:
    cluster, job = kuberay()
    assert (cluster["apiVersion"], cluster["kind"]) == (job["apiVersion"], "RayCluster")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    assert job["metadata"]["namespace"] == cluster["metadata"]["namespace"]
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    lock = (ROOT / "requirements.lock").read_text()
    assert f"\nray=={cluster['spec']['rayVersion']} " in lock
    used = re.findall(r"/lumiray/(jobs/\w+\.py)", job["spec"]["entrypoint"])
    assert len(used) == 1 and (ROOT / used[0]).exists()
    for pod in pods(cluster):
        (container,) = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {one["name"] for one in container.get("volumeMounts", ())} == {
            one["name"] for one in pod.get("volumes", ())
        }


def test_a_pod_that_ends_waits_for_a_checkpoint() -> None:
    for group in kuberay()[0]["spec"]["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        if "nvidia.com/gpu" not in pod["containers"][0]["resources"]["limits"]:
            continue
        command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
        assert "DRAIN_NODE_REASON_PREEMPTION" in command
        assert int(re.findall(r"sleep (\d+)", command)[0]) < pod["terminationGracePeriodSeconds"]


def test_the_image_installs_exactly_the_lock() -> None:
    text = (ROOT / "cluster" / "Dockerfile").read_text()
    assert "--require-hashes /tmp/requirements.lock" in text
    assert all((ROOT / one).exists() for one in re.findall(r"^COPY (\S+)", text, flags=re.MULTILINE))
