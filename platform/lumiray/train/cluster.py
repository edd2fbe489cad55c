"""The Ray cluster as a run sees it: joining or starting one, and sharing out its cores.

On GPU clusters a worker takes a GPU and a core, and decoders take whole cores of their own.  Without GPUs
training and decoding share the cores: both ask for fractions, so that Ray places them together.
"""

from __future__ import annotations

import os
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lumiray.config import RunConfig
from lumiray.data.stream import Decoders
from lumiray.errors import RunFailure, UserError

ROOT = Path(__file__).resolve().parents[3]
ANSWER_S = 20.0  # within which a cluster that runs answers
PROCESS_S = 60.0  # within which a node that is not overloaded starts a process
NO_PROCESS = (
    f"no process of the cluster has started in {PROCESS_S:.0f} s. If it is not busy, python cannot run there as it "
    "does here: /tmp/ray/session_latest/logs on its nodes say why (worker-*.err, raylet.out)"
)


def start_ray() -> None:
    """Join the cluster at RAY_ADDRESS, or start one on this machine.

    Ray puts only the root of an uploaded working directory on the path; relative entries find the uploaded
    packages, absolute ones this checkout, and an installed lumiray needs neither.

    Raises:
        UserError: RAY_ADDRESS is no address of a cluster.
        RunFailure: the cluster does not answer, or none can be started here.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # how soon `fit` sees the end
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        return
    # this variable replaces the node's own, whose folders may hold Ray itself (environment modules)
    paths = ["platform", "models", str(ROOT / "platform"), str(ROOT / "models"), "${PYTHONPATH}"]
    address = os.environ.get("RAY_ADDRESS")
    if address:
        check_address(address)
    else:  # nobody gives notice to a machine of one's own, and every process that waits costs a hundredth of a core
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    try:
        ray.init(
            address=address or "local",
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}},
            logging_level="error",
            log_to_driver=False,  # workers speak through the board; their own logs stay with Ray
            include_dashboard=None if address else False,
        )
    except Exception as error:  # of many kinds: a connection, a token, a process that did not come up
        words = " ".join(str(error).split())[:300]
        if address:
            raise RunFailure(
                f"The Ray cluster at RAY_ADDRESS={address} cannot be joined: {words} Check the address, that its head "
                "runs the same Ray version, and its token (RAY_AUTH_MODE, RAY_AUTH_TOKEN)."
            ) from error
        raise RunFailure(
            f"Ray cannot be started on this machine: {words} It may be short of memory or busy with other work; its "
            "logs are in /tmp/ray/session_latest/logs."
        ) from error


def check_address(address: str) -> None:
    """Refuse an address where no cluster answers: Ray itself would go on asking for many minutes.

    Raises:
        UserError: it is of another form.
        RunFailure: nothing answers, or not a cluster.
    """
    if address in ("auto", "local"):
        return
    mend = "Set it to HEAD:6379 of a cluster that runs, to auto on one of its nodes, or unset it to use this machine."
    if address.startswith(("http://", "https://")):
        raise UserError(f"RAY_ADDRESS is {address}: that is the dashboard, which only `ray job submit` takes. {mend}")
    place = address.removeprefix("ray://")
    if not place.rpartition(":")[0] or not place.rpartition(":")[2].isdigit():
        raise UserError(f"RAY_ADDRESS is {address!r}, which is no HOST:PORT. {mend}")
    import grpc

    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
        if os.environ.get("RAY_USE_TLS", "0") == "0":  # else it answers only those who show a certificate
            with grpc.insecure_channel(place, options=[("grpc.enable_http_proxy", 0)]) as channel:
                grpc.channel_ready_future(channel).result(ANSWER_S)
    except (OSError, OverflowError, grpc.FutureTimeoutError):
        raise RunFailure(f"RAY_ADDRESS is {address}, and no cluster answers there. {mend}") from None


@dataclass(frozen=True)
class Shares:
    """What each worker and its decoders ask of the cluster."""

    device: str  # cpu | gpu
    worker: dict[str, float]
    threads: int
    decoders: Decoders


def share_out(run: RunConfig, workers: int, resources: dict[str, float]) -> Shares:
    """Divide the cluster's cores and GPUs between `workers` workers and their decoders.

    Raises:
        UserError: GPUs were asked for and there are too few.
    """
    cores, gpus = resources.get("CPU", 1.0), int(resources.get("GPU", 0))
    device = run.device if run.device != "auto" else ("gpu" if gpus else "cpu")
    store = int(resources.get("object_store_memory", 1 << 30) * 0.5 / workers)
    if device == "gpu":
        if gpus < workers:
            raise UserError(
                f"--workers {workers} needs as many GPUs; the cluster has {gpus}. Lower --workers, add "
                "nodes, or use --device cpu."
            )
        free = max(1, int((cores - workers) / workers))
        fixed = run.data.decoders
        pool = Decoders(fixed or max(1, free // 2), fixed or free, 1.0, store)
        return Shares("gpu", {"GPU": 1, "CPU": 1}, 1, pool)
    if run.precision == "fp16":
        raise UserError("--precision fp16 needs GPUs: on CPUs use bf16 or fp32.")
    share = cores / workers
    most = run.data.decoders or max(1, int(share))
    least = run.data.decoders or 1
    pool = Decoders(least, most, round(0.4 * share / most, 4), store)
    return Shares("cpu", {"CPU": round(0.4 * share, 4)}, max(1, int(share)), pool)


def ray_scratch() -> str:
    """A local folder for Ray Train's own bookkeeping; the run's results never depend on it."""
    return str(Path(tempfile.gettempdir()) / "lumiray-ray-train")
