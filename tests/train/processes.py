"""Real process groups for tests: a function runs on every rank of a gloo group, rank 0's answer comes back."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.multiprocessing as multiprocessing


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def run_group(function: Callable[..., Any], world_size: int, *arguments: Any) -> Any:
    """Run `function(rank, world_size, *arguments)` on `world_size` processes; JSON of what rank 0 returns."""
    with tempfile.TemporaryDirectory() as folder:
        answer = str(Path(folder) / "answer.json")
        multiprocessing.spawn(_start, (function, world_size, free_port(), answer, arguments), nprocs=world_size)
        return json.loads(Path(answer).read_text())


def _start(
    rank: int,
    function: Callable[..., Any],
    world_size: int,
    port: int,
    answer: str,
    arguments: tuple[Any, ...],
) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(rank),
        "DS_ACCELERATOR": "cpu",
        "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"],  # ninja
    }
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    result = function(rank, world_size, *arguments)
    if rank == 0:
        Path(answer).write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()
