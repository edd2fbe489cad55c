"""Everything about a job that can be known before anything is started: options, shards, the run that it continues."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lumiray.config import JobConfig, check_run
from lumiray.data.filter import Filter, parse_filter
from lumiray.data.listing import Listed, find, split_patterns
from lumiray.data.survivors import check_table
from lumiray.errors import UserError
from lumiray.evaluate.classes import Classes, read_classes
from lumiray.identity import compare
from lumiray.registry import system as make_system
from lumiray.sources import NamedShards, needed_sources, training_sources
from lumiray.storage import NoBucket, NotThere, absolute, is_s3, join, read_bytes, without_secrets
from lumiray.system import Stage, stage_named
from lumiray.train.chain import IDENTITY, check_start
from lumiray.train.engine_settings import own_settings
from lumiray.train.recipe import check_recipe, rate_factors, run_length, scaled_lr
from lumiray.train.sizes import Sizes, resolve_sizes


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


def check_job(job: JobConfig, start: bool = True) -> Checked:
    """Everything that can be known before anything is started.

    Args:
        start: also that there is what the stage starts from.

    Raises:
        UserError: bad use.
    """
    check_run(job.run)
    job = independent_of_here(job)
    keep = filter_of(job)
    # a missing shard stops the job by name
    stage = stage_named(make_system(job.slug, job.system), job.run.stage)
    sources = needed_sources(training_sources(job.run.shards, job.run.mix), stage.sources, f"{job.slug}/{stage.name}")
    training = tuple((one, find(one.patterns)) for one in sources)
    if keep is not None:
        for _, (first, *_) in training:
            check_table(first, keep)
    validation = find(job.run.val_shards) if job.run.val_shards else []
    if job.run.data.read == "shard" and job.run.data.cache is None:
        _refuse_on_s3([*(shard for _, listed in training for shard in listed), *validation])
    classes = read_classes(job.run.evaluate.class_names, job.run.evaluate.templates)
    stored = stored_run(job)
    rate_factors(job.run.finetune)
    if start:
        check_start(job, stage)
    sizes = resolve_sizes(job.run, stage, stored and stored["sizes"])
    steps = run_length(job.run, stage)
    if steps is not None:
        check_recipe(job.run, stage, steps)
    if (rate := scaled_lr(job.run, stage, sizes)) is not None:
        job = replace(job, run=replace(job.run, lr=rate))
    return Checked(job, training, validation, stage, sizes, classes, stored)


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
    if run.start_from:
        places["start_from"] = absolute(run.start_from)
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


def _refuse_on_s3(shards: Sequence[Listed]) -> None:
    """Shards on S3 that are read whole need a place on the host."""
    there = next((shard.url for shard in shards if is_s3(shard.url)), None)
    if there is not None:
        raise UserError(
            f"--data.read shard keeps whole shards of S3, such as {without_secrets(there)}, on a disk of each host: "
            "name a folder there with --data.cache, and its size with --data.cache-gb; or leave --data.read at slice."
        )


def filter_of(job: JobConfig) -> Filter | None:
    """Which training rows a job takes; None for all of them."""
    return None if job.run.data.filter is None else parse_filter(job.run.data.filter)


def _whole_paths(patterns: str) -> str:
    return "::".join(absolute(one) for one in split_patterns(patterns))


def announced(checked: Checked) -> list[str]:
    """What was derived from the options, as lines."""
    job, stage, sizes = checked.job, checked.stage, checked.sizes
    run, published = job.run, stage.global_batch_size
    lines = [
        f"{job.slug}/{stage.name}: global batch {sizes.global_batch_size} = {sizes.num_micro_batches} x "
        f"{sizes.micro_batch_size} on {sizes.workers} worker(s)"
    ]
    if sizes.workers < run.workers:
        lines.append(
            f"note: {run.workers - sizes.workers} of {run.workers} workers stay idle, since "
            f"{sizes.num_micro_batches} micro-batches divide over {sizes.workers}"
        )
    if published and published != sizes.global_batch_size:
        lines.append(
            f"note: the published global batch is {published}; learning rate "
            f"{run.lr or stage.players[0].optimizer.lr:g} (--optimizer.lr-rule {run.optimizer.lr_rule})"
        )
    missing = () if run.start_from or checked.stored else make_system(job.slug, job.system).missing_weights()
    if missing:
        lines.append(f"note: without --{' and --'.join(missing)} these parts start from scratch")
    return lines


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
