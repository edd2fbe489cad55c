"""Files made of files by a pool of processes over the cluster (Ray Data), what they need loaded once in each."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lumiray.errors import RunFailure, UserError
from lumiray.evaluate.picture_folder import Place, Report

Work = Callable[[Sequence[Place]], Iterable[Report]]


@dataclass(frozen=True)
class Pool:
    """How many processes, and what each takes of the cluster."""

    size: int
    cores: float = 1
    gpus: float = 0


def pool_of_workers(workers: int, resources: dict[str, float]) -> Pool:
    """A GPU for each process where there are any; else as many cores as leave room for all of them on the nodes.

    Raises:
        UserError: there are fewer than processes.
    """
    cores, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    there, kind = (gpus, "GPUs") if gpus else (cores, "cores")
    if workers > there:
        raise UserError(f"--workers {workers}: the cluster has {there} {kind}, and each process takes one.")
    if gpus:
        return Pool(workers, 1, 1)
    import ray

    nodes = [int(one["Resources"].get("CPU", 0)) for one in ray.nodes() if one["Alive"]]
    fitting = (share for share in range(max(nodes), 1, -1) if sum(one // share for one in nodes) >= workers)
    return Pool(workers, next(fitting, 1))


def over_cluster(
    make: Callable[[], Work], places: Sequence[Place], group: int, pool_of: Callable[[dict[str, float]], Pool]
) -> Iterator[Report]:
    """What became of each picture, or other file, as they are done.

    Args:
        make: called once in each process; what it gives does the pictures of one task.
        group: pictures of one task.
        pool_of: the cluster's resources -> the pool.

    Raises:
        RunFailure: a process failed; what it wrote stays.
    """
    from lumiray.train.cluster import start_ray
    from lumiray.train.failure import lacking_module, user_error_behind

    tasks = [json.dumps(places[start : start + group]) for start in range(0, len(places), group)]
    start_ray()
    try:
        for batch in _pipeline(make, tasks, pool_of).iter_batches(batch_size=None, prefetch_batches=0):
            yield from (Report(**json.loads(one)) for one in batch["report"])
    except Exception as error:
        known = user_error_behind(error) or lacking_module(error)
        raise known or RunFailure(f"The pool of processes failed: {error}") from error


def _pipeline(make: Callable[[], Work], tasks: list[str], pool_of: Callable[[dict[str, float]], Pool]) -> Any:
    """Tasks -> reports, by a pool of processes.  Ray must be up."""
    import ray
    import ray.data

    pool = pool_of(ray.cluster_resources())
    rows = ray.data.from_items([{"task": one} for one in tasks], override_num_blocks=len(tasks))
    rows.context.enable_progress_bars = False
    rows.context.raise_original_map_exception = True  # a full disk arrives as one message, not as text in a trace
    return rows.map_batches(
        Process,
        batch_size=None,
        fn_constructor_args=(make,),
        # a process gets a task when it has done the one before: pictures take long, and differ in size
        compute=ray.data.ActorPoolStrategy(size=min(pool.size, len(tasks)), max_tasks_in_flight_per_actor=1),
        num_cpus=pool.cores,
        num_gpus=pool.gpus,
    )


class Process:
    """One process of the pool."""

    def __init__(self, make: Callable[[], Work]) -> None:
        self.work = make()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Do tasks (Ray Data's batch form); one report per picture."""
        places = [[(place, result) for place, result in json.loads(str(task))] for task in batch["task"]]
        reports = [json.dumps(dataclasses.asdict(report)) for task in places for report in self.work(task)]
        return {"report": np.array(reports)}
