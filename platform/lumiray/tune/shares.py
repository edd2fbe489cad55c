"""How many trials run at once, and what each of them may take of the cluster."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lumiray.config import RunConfig
from lumiray.errors import UserError
from lumiray.train.cluster import share_out
from lumiray.tune.options import SearchOptions

LAUNCHER_CPUS = 0.001
"""Of the process that starts a trial's workers and waits for them; Ray refuses a request for nothing."""
GPU_TRIAL_CPUS = 2  # the least: one for the worker, one for a decoder


@dataclass(frozen=True)
class TrialShare:
    """What trials take.

    Args:
        at_once: trials that run beside each other.
        resources: one trial's part of the cluster, as `share_out` takes it.
        process: what the trial's own process asks of Ray; with one worker it is the worker.
    """

    at_once: int
    resources: dict[str, float]
    process: dict[str, float]


def trial_share(
    run: RunConfig, options: SearchOptions, cluster: Mapping[str, float], nodes: Sequence[Mapping[str, float]]
) -> TrialShare:
    """Divide the cluster between trials.

    Args:
        cluster: all resources together.
        nodes: those of each node.

    Raises:
        UserError: a trial asks for more than there is, so that it would wait for ever.
    """
    cores, gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    on_gpu = run.device == "gpu" or (run.device == "auto" and gpus > 0)
    if options.gpus_per_trial and not on_gpu:
        raise UserError(
            f"--gpus-per-trial {options.gpus_per_trial:g}: trials run on CPUs; the cluster has {gpus:g} GPUs."
        )
    own_gpus = (options.gpus_per_trial or float(run.workers)) if on_gpu else 0.0
    if own_gpus > gpus:
        raise UserError(
            f"A trial needs {own_gpus:g} GPUs and the cluster has {gpus:g}: lower --workers or --gpus-per-trial, or "
            "add nodes."
        )
    least = float(run.workers * GPU_TRIAL_CPUS) if on_gpu else 0.0
    by_gpu = math.floor(gpus / own_gpus + 1e-9) if on_gpu else 0
    own_cores = options.cpus_per_trial or (max(least, cores // by_gpu) if on_gpu else float(run.workers))
    if own_cores < least:
        raise UserError(f"--cpus-per-trial {own_cores:g}: on GPUs a trial needs {least:g}, of which half decode.")
    if own_cores > cores:
        raise UserError(
            f"A trial needs {own_cores:g} cores and the cluster has {cores:g}: lower --workers or --cpus-per-trial, or "
            "add nodes."
        )
    at_once = math.floor(cores / own_cores + 1e-9)
    at_once = min(at_once, by_gpu) if on_gpu else at_once
    store = cluster.get("object_store_memory", float(1 << 30)) / at_once
    resources = {"CPU": own_cores, "GPU": float(math.ceil(own_gpus)), "object_store_memory": store}
    worker = share_out(run, run.workers, resources).worker
    if on_gpu and run.workers == 1:
        worker = {**worker, "GPU": own_gpus}
    for name, amount in worker.items():
        if nodes and amount > max(one.get(name, 0.0) for one in nodes):
            raise UserError(f"A worker of a trial needs {amount:g} {name} on one node, and no node has as many.")
    return TrialShare(at_once, resources, worker if run.workers == 1 else {"CPU": LAUNCHER_CPUS})
