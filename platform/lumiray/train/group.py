"""A group of Ray Train workers that run one function together: training, evaluation, the doctor's all-reduce."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 1800  # for one collective: ranks may wait for a slow store or a long evaluation


@dataclass(frozen=True)
class Group:
    """What a group asks of the cluster.

    Args:
        name: stands in Ray's dashboard, followed by a number of its own.
        device: cpu | gpu; decides what the workers talk over, gloo or NCCL.
        resources: of each worker.
        retries: times that the whole group is started again after a worker failed.
    """

    name: str
    workers: int
    device: str
    resources: dict[str, float]
    retries: int = 0
    timeout_s: int = TIMEOUT_S


def run_group(group: Group, work: Callable[[Any, Any], None], spec: Any, board: Any) -> None:
    """Run `work(spec, board)` on every worker of a group and wait for the end.  Ray must be up.

    Raises:
        Exception: what the last attempt failed with, as Ray Train wraps it.
    """
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    from lumiray.train.cluster import ray_scratch

    on_gpu = group.device == "gpu"
    TorchTrainer(
        lambda config: work(config["spec"], config["board"]),
        train_loop_config={"spec": spec, "board": board},
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo", timeout_s=group.timeout_s),
        scaling_config=ray.train.ScalingConfig(
            num_workers=group.workers, use_gpu=on_gpu, resources_per_worker=group.resources
        ),
        run_config=ray.train.RunConfig(
            name=f"{group.name}-{uuid.uuid4().hex[:12]}",  # what we keep is ours: Ray's own run is always a new one
            storage_path=ray_scratch(),
            failure_config=ray.train.FailureConfig(max_failures=group.retries),
        ),
    ).fit()


def run_here(work: Callable[[Any, Any], None], spec: Any, board: Any) -> None:
    """Run `work(spec, board)` in this process, as the only worker of a group.  Ray must be up.

    Nothing is started for it but the process group of one, so a process can do one run after the other.
    """
    import ray.train
    import torch.distributed as dist
    from ray.train.torch import TorchTrainer

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ.update(alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    try:
        TorchTrainer(
            lambda config: work(config["spec"], config["board"]),
            train_loop_config={"spec": spec, "board": board},
            scaling_config=ray.train.ScalingConfig(num_workers=0),
            run_config=ray.train.RunConfig(name=f"here-{uuid.uuid4().hex[:12]}"),
        ).fit()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
