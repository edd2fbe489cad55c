"""The driver: check all that can be checked, start the cluster's part, wait, say how it ended.

Order matters: what costs nothing is checked first (options, then the run in the output, then shards), and
nothing is started on accelerators before all of it has passed.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lumiray.config import JobConfig, check_run
from lumiray.data.buckets import Buckets
from lumiray.data.entries import StreamSpec
from lumiray.data.filter import Filter
from lumiray.data.index import ShardSet
from lumiray.data.listing import Listed
from lumiray.data.plan import Plan, PlanSettings, Source
from lumiray.data.slice_cache import FILLED, SliceCache
from lumiray.errors import EXIT_FAILURE, Interrupted, RunFailure, UserError
from lumiray.identity import data_identity, identity
from lumiray.settings_file import to_yaml
from lumiray.sources import counting_source
from lumiray.storage import is_s3, join, without_secrets, write_atomically
from lumiray.train.chain import CONFIG, IDENTITY, is_done, stage_jobs
from lumiray.train.checks import Checked, announced, check_job, filter_of, independent_of_here, refuse_other_run
from lumiray.train.derive import derived, with_records
from lumiray.train.failure import STAYS, explained, user_error_behind
from lumiray.train.marks import Marks
from lumiray.train.recipe import check_recipe, run_length
from lumiray.train.status import INTERRUPTED, fail, read_status

if TYPE_CHECKING:  # they import ray, which the checks do without
    from lumiray.train.cluster import Shares
    from lumiray.train.worker import WorkerSpec


def train(job: JobConfig) -> dict[str, Any]:
    """Run a training job to its end: one stage, or all of them one after the other.

    Returns:
        The status of the (last) run.

    Raises:
        UserError, RunFailure, Interrupted: see `train_stage`; stages that are done stay done.
    """
    check_run(job.run)
    jobs = [independent_of_here(one) for one in stage_jobs(job)]
    if len(jobs) > 1:
        for one in jobs:  # a mistake in the last stage is found before the first one starts
            check_job(one, start=False)
    status: dict[str, Any] = {}
    for number, one in enumerate(jobs):
        one = with_records(one, jobs[:number])
        if len(jobs) > 1 and is_done(one):
            print(f"{one.slug}/{one.run.stage}: done already, in {one.run.output}", flush=True)
        else:
            status = train_stage(one)
    return status


def train_stage(job: JobConfig) -> dict[str, Any]:
    """Run one stage to its end.

    Returns:
        The run's status: state, step, metrics of the last evaluation.

    Raises:
        UserError: bad use, found before anything was started.
        RunFailure: the run cannot go on; what is committed stays.
        Interrupted: told to stop; the same command continues from the checkpoint.
    """
    marks = Marks.of_this_process()
    checked = check_job(job)
    print("\n".join(announced(checked)), flush=True)
    marks.reach("options_checked")

    from lumiray.train.cluster import start_ray

    warm = threading.Thread(target=_import_trainer, daemon=True)
    warm.start()  # importing torch overlaps with the start of Ray's processes
    start_ray()
    marks.reach("ray")
    import ray

    made = ready(checked, ray.cluster_resources(), marks)
    try:
        return _fit(made.spec, made.shares.worker, made.workers, warm)
    except UserError as error:
        if not isinstance(error, Interrupted):
            with suppress(UserError, OSError):  # the storage may be what failed
                fail(made.spec.output, str(error))
        raise


@dataclass(frozen=True)
class Ready:
    """A run whose workers can be started."""

    spec: WorkerSpec
    shares: Shares
    workers: int


def ready(checked: Checked, resources: dict[str, float], marks: Marks) -> Ready:
    """Share out cores, open the shards, say in the output what the run is.  Ray must be up.

    Args:
        resources: what the run may take of the cluster.

    Raises:
        UserError: the run in the output is another one, or shards or resources do not do.
    """
    from lumiray.data.parallel import open_shards
    from lumiray.train.cluster import share_out
    from lumiray.train.worker import WorkerSpec

    checked = derived(checked)
    job, stage, sizes = checked.job, checked.stage, checked.sizes
    output = str(job.run.output)
    shares = share_out(job.run, sizes.workers, resources)
    stream = make_stream(checked, open_shards)
    data = data_identity(stream.plan, [shards.digest for shards in stream.sources])
    own_identity = identity(job, stage.name, data, sizes, stream.total_steps)
    if checked.stored is not None:
        refuse_other_run(job, checked.stored, own_identity)
    write_atomically(join(output, CONFIG), to_yaml(job).encode())
    description = {"identity": own_identity, "sizes": vars(sizes), "total_steps": stream.total_steps}
    write_atomically(join(output, IDENTITY), json.dumps(description, indent=1).encode())
    marks.reach("shards_opened")
    resume_from = job.run.resume if job.run.resume not in ("auto", "never") else None
    spec = WorkerSpec(
        job,
        stream,
        stage.name,
        output,
        own_identity,
        shares.decoders,
        shares.device,
        shares.threads,
        marks,
        resume_from,
        checked.classes,
    )
    return Ready(spec, shares, sizes.workers)


def _import_trainer() -> None:
    import ray.train.torch  # noqa: F401


def make_stream(
    checked: Checked,
    open_shards: Callable[[list[Listed], str | None, Filter | None, SliceCache | None, bool], ShardSet],
) -> StreamSpec:
    """Open the shards, make the plan, and describe the stream.

    Args:
        open_shards: opens listed shards with an index folder, a filter and a cache, to be read whole or not
            (`parallel.open_shards`).
    """
    job, stage, sizes = checked.job, checked.stage, checked.sizes
    run = job.run
    named = tuple(one for one, _ in checked.training)
    cache = SliceCache(run.data.cache, round(run.data.cache_gb * 1e9)) if run.data.cache else None
    index, keep, whole = run.data.index, filter_of(job), run.data.read == "shard"
    sources = tuple(open_shards(listed, index, keep, cache, whole) for _, listed in checked.training)
    for one, shards in zip(named, sources, strict=True):
        if shards.num_stored < 1:
            raise UserError(f"The training shards {without_secrets(one.patterns)} hold no rows.")
        if shards.num_rows < 1:
            raise UserError(
                f"--data.filter {run.data.filter!r} keeps none of the {shards.num_stored} rows of "
                f"{without_secrets(one.patterns)}."
            )
    validation = open_shards(checked.validation, index, None, cache, whole) if checked.validation else None
    plan = Plan(
        [
            Source(one.name, shards.num_rows, one.weight, shards.counts)
            for one, shards in zip(named, sources, strict=True)
        ],
        PlanSettings(run.data.slice_rows, run.data.group_rows, run.data.read),
        sizes.global_batch_size,
        sizes.micro_batch_size,
        run.seed,
    )
    if whole and cache is not None:
        refuse_small_cache(sources, run.data.group_rows, cache.limit_bytes)
    steps = run_length(run, stage) or plan.steps_for(run.epochs or 0.0, counting_source(named, run.epochs_of))
    check_recipe(run, stage, steps)
    if run.data.bucket_window:
        shapes = tuple(shards.shapes(_scan_map()) for shards in sources)
        plan = plan.bucketed(Buckets(run.data.bucket_window, shapes, steps, run.seed))
    print("\n".join(passes(plan, sources, steps)), flush=True)
    return StreamSpec(
        slug=job.slug,
        system_config=job.system,
        stage=stage.name,
        plan=plan,
        sources=sources,
        seed=run.seed,
        total_steps=steps,
        validation=validation,
        evaluation_batch_size=(
            run.evaluate.batch_size or stage.evaluation_batch_size or min(sizes.micro_batch_size, 512)
        ),
        evaluate_every=run.evaluate.every,
        fail_on_bad_row=run.data.bad_rows == "fail",
    )


def _scan_map() -> Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]:
    """By Ray's tasks where Ray is up; a dry run does without."""
    import ray

    from lumiray.data.parallel import ray_map

    return ray_map if ray.is_initialized() else map


def refuse_small_cache(sources: Sequence[ShardSet], group_rows: int, limit_bytes: int) -> None:
    """Refuse a cache that would lose whole shards before their rows were read.

    Rows are wanted from two groups at once: decoders are ahead of the training, and of each other.

    Raises:
        UserError: names the size that is needed.
    """
    needed = 0.0
    for shards in sources:
        if any(is_s3(folder) for folder in shards.folders):
            group = group_rows * int(shards.sizes.sum()) / shards.num_rows + 2 * int(shards.sizes.max())
            needed += min(int(shards.sizes.sum()), 2 * group)
    if needed > limit_bytes * FILLED:
        least = needed / FILLED / 1e9
        raise UserError(
            f"--data.cache-gb is {limit_bytes / 1e9:g}, and the shards that rows of two groups of {group_rows} come "
            f"from take up to {needed / 1e9:.3g} GB: --data.read shard needs --data.cache-gb {least:.3g} or "
            "more, or a smaller --data.group-rows, or smaller shards."
        )


def passes(plan: Plan, sources: Sequence[ShardSet], steps: int) -> Iterator[str]:
    """How long a run is, and how often it passes each of its sources, a line each."""
    delivered = plan.mixture.counts(steps * plan.global_batch_size)
    for source, shards, rows in zip(plan.sources, sources, delivered, strict=True):
        about = f"{source.rows} rows in {len(shards)} shard(s)"
        if shards.survivors is not None:
            about = f"filter keeps {source.rows} of {shards.num_stored} rows in {len(shards)} shard(s)"
            if shards.survivors.unlisted:
                about += f" ({shards.survivors.unlisted} stand in no table)"
        epochs = f"{rows / source.rows:.3g} epochs"
        if len(sources) == 1:
            yield f"{about}; {steps} steps = {epochs}"
        else:
            share = source.weight / sum(one.weight for one in plan.sources)
            yield f"{source.name}: {about}, {share:.1%} of every batch; {steps} steps = {epochs}"


def _fit(spec: Any, resources: dict[str, float], workers: int, warm: threading.Thread) -> dict[str, Any]:
    """Start the worker group and wait for its end, stopping it in order when a signal comes."""
    warm.join()
    import ray

    from lumiray.train.board import Board, shown
    from lumiray.train.group import Group, run_group
    from lumiray.train.worker import work

    board: Any = Board.remote()  # type: ignore[attr-defined]
    group = Group("lumiray-train", workers, spec.device, resources, spec.job.run.retries)
    failure: BaseException | None = None
    stopped, mistake = False, None
    try:  # what an error means is decided below, from what the workers left behind
        with on_signals(board.stop.remote), shown(board):
            run_group(group, work, spec, board)
    except Exception as error:
        failure = error
    try:
        stopped, mistake = ray.get(board.state.remote())
    except ray.exceptions.RayError as error:  # the board itself was killed: memory is short
        failure = failure or error
    if mistake is not None:
        message, exit_code = mistake
        raise (RunFailure if exit_code == EXIT_FAILURE else UserError)(message)
    if failure is not None:
        raise user_error_behind(failure) or RunFailure(
            f"{explained(failure, spec.job.run.retries + 1)}\n{STAYS.format(spec.output)}"
        ) from failure
    return ended(spec.output, stopped)


def ended(output: str, stopped: bool) -> dict[str, Any]:
    """The status that the workers left.

    Raises:
        Interrupted: the run was told to stop.
    """
    status = read_status(output)
    if status.get("state") == INTERRUPTED and stopped:
        raise Interrupted(
            f"stopped at step {status['step']} with a checkpoint in {output}; the same command continues."
        )
    return status


@contextmanager
def on_signals(stop: Callable[[], Any]) -> Iterator[None]:
    """Turn SIGTERM and the first Ctrl-C into an orderly stop (after ray.init, which sets its own)."""

    def handle(number: int, frame: Any) -> None:
        print("stopping after this step, with a checkpoint", flush=True)
        stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the second one is meant

    before = {one: signal.signal(one, handle) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
