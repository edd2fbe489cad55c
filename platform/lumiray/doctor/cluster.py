"""Checks of the cluster: its nodes, and an all-reduce between workers as training starts them."""

from __future__ import annotations

import os
import time
from typing import Any

from lumiray.doctor.finding import FAIL, NOTE, OK, Finding, in_one_line

REDUCED_BYTES, ROUNDS = 64 << 20, 5
TIMEOUT_S = 120  # of one collective
SLOW_NETWORK = 1e9  # bytes/s under which GPUs wait for each other


def ray_cluster() -> Finding:
    """Join the cluster at RAY_ADDRESS, or start one here, see that it starts processes, and say what it has."""
    from lumiray.train.cluster import NO_PROCESS, PROCESS_S, start_ray

    start_ray()
    import ray

    if not ray.wait([ray.remote(num_cpus=0)(_process_id).remote()], timeout=PROCESS_S)[0]:
        return Finding("ray cluster", FAIL, NO_PROCESS, "let its nodes have the same environment as this machine")
    alive = [node for node in ray.nodes() if node["Alive"]]
    total = ray.cluster_resources()
    words = f"{len(alive)} node(s), {total.get('CPU', 0):g} cores, {total.get('GPU', 0):g} GPUs, Ray {ray.__version__}"
    if not os.environ.get("RAY_ADDRESS"):
        return Finding("ray cluster", OK, f"{words}; started here, for RAY_ADDRESS is not set")
    dead = [node["NodeManagerAddress"] for node in ray.nodes() if not node["Alive"]]
    if dead:
        return Finding("ray cluster", NOTE, f"{words}; lost: {', '.join(dead[:5])}", "start ray on them again")
    return Finding("ray cluster", OK, words)


def _process_id() -> int:
    return os.getpid()  # a function of Python: Ray takes no built-in ones


def all_reduce() -> Finding:
    """Sum tensors between workers through Ray Train, as training does; the sum is checked and timed.

    On every free GPU, or, where the cluster has none, on every node and at least twice.
    """
    import ray

    total, free = ray.cluster_resources(), ray.available_resources()
    on_gpu = total.get("GPU", 0) >= 1
    nodes = sum(node["Alive"] for node in ray.nodes())
    workers = int(free.get("GPU", 0)) if on_gpu else min(max(2, nodes), int(free.get("CPU", 0) * 2))
    if workers < (1 if on_gpu else 2):
        kind = "GPUs" if on_gpu else "cores"
        return Finding(
            "all-reduce", NOTE, f"not tried: all {kind} of the cluster are in use", "try again when it is idle"
        )
    backend = "nccl" if on_gpu else "gloo"
    interface = "NCCL_SOCKET_IFNAME" if on_gpu else "GLOO_SOCKET_IFNAME"
    mend = f"see that nodes reach each other on all ports, and set {interface} to their network"
    try:
        right, rate = reduced(workers, backend)
    except Exception as error:  # a worker's, the network's, Ray's own
        return Finding("all-reduce", FAIL, f"{workers} workers over {backend}: {in_one_line(cause_of(error))}", mend)
    if not right:
        return Finding("all-reduce", FAIL, f"wrong sum between {workers} workers over {backend}", mend)
    words = f"{workers} workers over {backend} sum {REDUCED_BYTES >> 20} MiB at {rate / 1e9:.2f} GB/s"
    if on_gpu and workers > 1 and rate < SLOW_NETWORK:
        return Finding("all-reduce", NOTE, words, "NCCL_DEBUG=INFO says which network it takes")
    return Finding("all-reduce", OK, words)


def reduced(workers: int, backend: str) -> tuple[bool, float]:
    """Whether the sum between so many new workers is right, and its bytes per second."""
    import ray
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    from lumiray.train.board import Board
    from lumiray.train.cluster import ray_scratch

    board: Any = Board.remote()  # type: ignore[attr-defined]
    on_gpu = backend == "nccl"
    trainer = TorchTrainer(
        _reduce,
        train_loop_config={"board": board},
        torch_config=TorchConfig(backend=backend, timeout_s=TIMEOUT_S),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=on_gpu,
            resources_per_worker={"GPU": 1} if on_gpu else {"CPU": 0.5},
            placement_strategy="SPREAD",  # over the nodes: the network is what is tried
        ),
        run_config=ray.train.RunConfig(name=f"lumiray-doctor-{time.time_ns()}", storage_path=ray_scratch()),
    )
    trainer.fit()
    answer: tuple[bool, float] = ray.get(board.answered.remote())
    return answer


def _reduce(config: dict[str, Any]) -> None:
    """What every worker runs."""
    import ray
    import ray.train
    import torch
    import torch.distributed as dist

    context = ray.train.get_context()
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    values = torch.ones(REDUCED_BYTES // 4, device=device)
    dist.all_reduce(values)
    right = bool((values == context.get_world_size()).all())
    begin = time.perf_counter()
    for _ in range(ROUNDS):
        dist.all_reduce(values.fill_(1.0))
    if device.type == "cuda":
        torch.cuda.synchronize()
    rate = ROUNDS * REDUCED_BYTES / (time.perf_counter() - begin)
    if context.get_world_rank() == 0:
        ray.get(config["board"].answer.remote((right, rate)))


def cause_of(error: BaseException) -> BaseException:
    """What a worker itself raised, from under what Ray wraps around it."""
    failures = [*dict(getattr(error, "worker_failures", None) or {}).values()]
    inner = failures[0] if failures else getattr(error, "cause", None) or error.__cause__
    return cause_of(inner) if isinstance(inner, BaseException) else error
