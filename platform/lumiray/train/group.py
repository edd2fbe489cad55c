"""A group of Ray Train workers that run one function together: training, evaluation, the doctor's all-reduce."""

from __future__ import annotations

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

    A process may do one run after the other.  Its process group of one stays: DeepSpeed keeps the groups that it has
    seen, and does not take others for them.

    Args:
        spec: has `device`, cpu or gpu.
    """
    import ray.train
    import torch.distributed as dist
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer  # TorchTrainer ends the group with the run

    if not dist.is_initialized():
        backend = "nccl" if spec.device == "gpu" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    DataParallelTrainer(
        lambda config: work(config["spec"], config["board"]),
        train_loop_config={"spec": spec, "board": board},
        scaling_config=ray.train.ScalingConfig(num_workers=0),
        run_config=ray.train.RunConfig(name=f"here-{uuid.uuid4().hex[:12]}"),
    ).fit()
