"""The driver: check all that can be checked, start the cluster's part, wait, say how it ended.

Order matters: what costs nothing is checked first (options, then the run in the output, then shards), and
nothing is started on accelerators before all of it has passed.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from lumiray.config import JobConfig, check_run
from lumiray.data.entries import StreamSpec
from lumiray.data.filter import Filter, parse_filter
from lumiray.data.index import ShardSet
from lumiray.data.listing import Listed, find, split_patterns
from lumiray.data.plan import Plan, PlanSettings, Source
from lumiray.data.slice_cache import SliceCache
from lumiray.data.survivors import check_table
from lumiray.errors import EXIT_FAILURE, Interrupted, RunFailure, UserError
from lumiray.evaluate.classes import Classes, read_classes
from lumiray.identity import compare, data_identity, identity
from lumiray.registry import system as make_system
from lumiray.settings_file import to_yaml
from lumiray.sources import NamedShards, counting_source, training_sources
from lumiray.storage import NoBucket, NotThere, absolute, join, open_url, read_bytes, without_secrets, write_atomically
from lumiray.system import Stage, stage_named
from lumiray.train.engine_settings import own_settings
from lumiray.train.failure import STAYS, explained, user_error_behind
from lumiray.train.marks import Marks
from lumiray.train.recipe import check_recipe, scaled_lr
from lumiray.train.sizes import Sizes, resolve_sizes

CONFIG, IDENTITY = "config.yaml", "run.json"


def train(job: JobConfig) -> dict[str, Any]:
    """Run a training job to its end.

    Returns:
        The run's status: state, step, metrics of the last evaluation.

    Raises:
        UserError: bad use, found before anything was started.
        RunFailure: the run cannot go on; what is committed stays.
        Interrupted: told to stop; the same command continues from the checkpoint.
    """
    marks = Marks.of_this_process()
    checked = check_job(job)
    marks.reach("options_checked")
    job, stage, sizes = checked.job, checked.stage, checked.sizes
    output, stored = str(job.run.output), checked.stored

    from lumiray.data.parallel import open_shards
    from lumiray.train.cluster import share_out, start_ray

    warm = threading.Thread(target=_import_trainer, daemon=True)
    warm.start()  # importing torch overlaps with the start of Ray's processes
    start_ray()
    marks.reach("ray")
    import ray

    from lumiray.train.worker import WorkerSpec

    shares = share_out(job.run, sizes.workers, ray.cluster_resources())
    stream = make_stream(checked, open_shards)
    data = data_identity(stream.plan, [shards.digest for shards in stream.sources])
    own_identity = identity(job, data, sizes, stream.total_steps)
    if stored is not None:
        refuse_other_run(job, stored, own_identity)
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
    return _fit(spec, shares.worker, sizes.workers, warm)


@dataclass(frozen=True)
class Checked:
    """A job that passed every check that needs no cluster.

    Args:
        job: with whole paths and the learning rate that its rule gives.
        training: each source with its shards, listed once for all that follows.
        validation: shards, none without an evaluation.
        stored: the run that is continued (`stored_run`), None for a new one.
    """

    job: JobConfig
    training: tuple[tuple[NamedShards, list[Listed]], ...]
    validation: list[Listed]
    stage: Stage
    sizes: Sizes
    classes: Classes | None
    stored: dict[str, Any] | None


def check_job(job: JobConfig) -> Checked:
    """Everything that can be known before anything is started.

    Raises:
        UserError: bad use.
    """
    check_run(job.run)
    job = independent_of_here(job)
    keep = filter_of(job)
    # a missing shard stops the job by name
    training = tuple((one, find(one.patterns)) for one in training_sources(job.run.shards, job.run.mix))
    if keep is not None:
        for _, (first, *_) in training:
            check_table(first, keep)
    validation = find(job.run.val_shards) if job.run.val_shards else []
    classes = read_classes(job.run.evaluate.class_names, job.run.evaluate.templates)
    stored = stored_run(job)
    stage = stage_named(make_system(job.slug, job.system), None)
    sizes = resolve_sizes(job.run, stage, stored and stored["sizes"])
    if job.run.steps is not None:
        check_recipe(job.run, stage, job.run.steps)
    return Checked(announce(job, stage, sizes), training, validation, stage, sizes, classes, stored)


def independent_of_here(job: JobConfig) -> JobConfig:
    """The job with whole paths and without references to files of this machine's working directory.

    Raises:
        UserError: what a path names cannot be used.
    """
    run, engine, data = job.run, job.run.engine, job.run.data
    places: dict[str, Any] = {
        name: _whole_paths(value) for name in ("shards", "val_shards") if (value := getattr(run, name))
    }
    if run.mix:
        sources = training_sources(run.shards, run.mix)
        places["mix"] = tuple(str(replace(one, patterns=_whole_paths(one.patterns))) for one in sources)
    if run.resume not in ("auto", "never"):
        places["resume"] = absolute(run.resume)
    folders: dict[str, Any] = {name: absolute(at) for name in ("index", "cache") if (at := getattr(data, name))}
    data = replace(data, **folders)
    if keep := filter_of(job):
        data = replace(data, filter=keep.text)  # in one spelling, for a run continues only with the filter it had
    if engine.deepspeed:
        engine = replace(engine, deepspeed=json.dumps(own_settings(engine.deepspeed)))
    if engine.nvme_path:
        engine = replace(engine, nvme_path=absolute(engine.nvme_path))
    system = make_system(job.slug, job.system).portable()
    run = replace(run, **places, data=data, engine=engine, output=absolute(str(run.output)))
    return replace(job, run=run, system=system)


def filter_of(job: JobConfig) -> Filter | None:
    """Which training rows a job takes; None for all of them."""
    return None if job.run.data.filter is None else parse_filter(job.run.data.filter)


def _whole_paths(patterns: str) -> str:
    return "::".join(absolute(one) for one in split_patterns(patterns))


def _import_trainer() -> None:
    import ray.train.torch  # noqa: F401


def announce(job: JobConfig, stage: Stage, sizes: Sizes) -> JobConfig:
    """Say what was derived, and return the job with the scaled learning rate in it."""
    run = job.run
    print(
        f"{job.slug}/{stage.name}: global batch {sizes.global_batch_size} = {sizes.num_micro_batches} x "
        f"{sizes.micro_batch_size} on {sizes.workers} worker(s)",
        flush=True,
    )
    if sizes.workers < run.workers:
        print(
            f"note: {run.workers - sizes.workers} of {run.workers} workers stay idle, since "
            f"{sizes.num_micro_batches} micro-batches divide over {sizes.workers}",
            flush=True,
        )
    published = stage.global_batch_size
    rate = scaled_lr(run, stage, sizes)
    if published and published != sizes.global_batch_size:
        used = rate or run.lr or stage.players[0].optimizer.lr
        print(
            f"note: the published global batch is {published}; learning rate {used:g} "
            f"(--optimizer.lr-rule {run.optimizer.lr_rule})",
            flush=True,
        )
    return job if rate is None else replace(job, run=replace(run, lr=rate))


def stored_run(job: JobConfig) -> dict[str, Any] | None:
    """The run that the job continues: the one in its output, or else the one whose checkpoint it starts from.

    Returns:
        where: how to name it; identity: what it is; sizes: of its batches.  None for a new run.

    Raises:
        UserError: there is a run and `--resume never` forbids to continue it, or no checkpoint where one is named.
    """
    place = join(str(job.run.output), IDENTITY)
    try:
        data = read_bytes(place)
    except NoBucket:
        raise
    except NotThere:
        return None if job.run.resume in ("auto", "never") else _run_of_checkpoint(job.run.resume)
    if job.run.resume == "never":
        raise UserError(
            f"--output {job.run.output} holds a run already and --resume is never. Choose another output, "
            "or --resume auto to continue it."
        )
    if job.run.resume.startswith(join(str(job.run.output), "checkpoints")):
        raise UserError(
            f"--resume {job.run.resume} is a checkpoint of --output itself, which goes on from its newest one. To go "
            "back to this one, give another --output."
        )
    try:
        stored: dict[str, Any] = json.loads(data)
        held = {name: dict(stored[name]) for name in ("identity", "sizes")}
    except (ValueError, LookupError, TypeError):
        raise UserError(f"{place} is not what a run leaves there; choose another --output.") from None
    return held | {"where": f"--output {job.run.output} holds a run"}


def _run_of_checkpoint(url: str) -> dict[str, Any]:
    from lumiray.train.manifest import open_checkpoint

    held = open_checkpoint(url).identity
    sizes = {name: held.get(name) for name in ("global_batch_size", "micro_batch_size")}
    return {"where": f"--resume {url} is of a run", "identity": held, "sizes": sizes}


def refuse_other_run(job: JobConfig, stored: dict[str, Any], new: dict[str, Any]) -> None:
    """Let a run continue only as what it was.

    Args:
        stored: the run that is continued (`stored_run`).
        new: what it would be from now on (`identity`).

    Raises:
        UserError: settings that decide the result differ; names each with both values.
    """
    differing = compare(stored["identity"], new, accepted=job.run.accept_changes)
    if differing:
        lines = "\n  ".join(differing)
        raise UserError(
            f"{stored['where']} with other settings:\n  {lines}\nRepeat the old settings, "
            "choose another --output, or accept them by name with --accept-changes."
        )


def make_stream(
    checked: Checked, open_shards: Callable[[list[Listed], str | None, Filter | None, SliceCache | None], ShardSet]
) -> StreamSpec:
    """Open the shards, make the plan, and describe the stream.

    Args:
        open_shards: opens listed shards with an index folder, a filter and a cache (`parallel.open_shards`).
    """
    job, stage, sizes = checked.job, checked.stage, checked.sizes
    run = job.run
    named = tuple(one for one, _ in checked.training)
    cache = SliceCache(run.data.cache, round(run.data.cache_gb * 1e9)) if run.data.cache else None
    sources = tuple(open_shards(listed, run.data.index, filter_of(job), cache) for _, listed in checked.training)
    for one, shards in zip(named, sources, strict=True):
        if shards.num_stored < 1:
            raise UserError(f"The training shards {without_secrets(one.patterns)} hold no rows.")
        if shards.num_rows < 1:
            raise UserError(
                f"--data.filter {run.data.filter!r} keeps none of the {shards.num_stored} rows of "
                f"{without_secrets(one.patterns)}."
            )
    validation = open_shards(checked.validation, run.data.index, None, cache) if checked.validation else None
    settings = PlanSettings(run.data.slice_rows, run.data.group_rows)
    plan = Plan(
        [Source(one.name, shards.num_rows, one.weight) for one, shards in zip(named, sources, strict=True)],
        settings,
        sizes.global_batch_size,
        sizes.micro_batch_size,
        run.seed,
    )
    steps = run.steps or plan.steps_for(run.epochs or 0.0, counting_source(named, run.epochs_of))
    check_recipe(run, stage, steps)
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
    with open_url(join(output, "status.json"), "rb") as file:
        status = json.load(file)
    if status["state"] == "interrupted" and stopped:
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
