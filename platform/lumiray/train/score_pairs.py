"""Retrieval and zero-shot figures of a finished run, or of weights, over any number of workers: `score.py` by texts."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import Any, Literal

from lumiray.config import JobConfig
from lumiray.data.listing import find
from lumiray.errors import UserError, check_number
from lumiray.evaluate.classes import read_classes
from lumiray.settings_file import job_from, read_settings
from lumiray.storage import absolute, join, write_atomically


@dataclass(frozen=True)
class ScoreOptions:
    """What is evaluated, on what."""

    val_shards: str
    """Shards to evaluate on: a folder, pattern, list with `::`, or s3:// address."""
    run: str | None = None
    """A run's output: its configuration and its last checkpoint are used."""
    checkpoint: str | None = None
    """A checkpoint of that run in place of the last one."""
    model: str | None = None
    """Without --run: the system's model, such as ViT-B-32."""
    weights: str | None = None
    """Without --run: an open_clip pretrained tag, or a file."""
    workers: int = 1
    """Evaluating processes."""
    batch_size: int = 64
    """Rows per forward."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the forward passes."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto uses GPUs where the cluster has them."""
    output: str | None = None
    """Where the figures go as JSON; `RUN/scores/TIME.json` if not given."""
    class_names: str | None = None
    """Zero-shot classification of rows with a class: a file with one name per line, or `imagenet`."""
    templates: str | None = None
    """A file with one template per line, with {} for the class; or `openai` (if not given), `simple`."""
    best: int = 0
    """Best pictures of every text to write beside the figures."""


def score(slug: str, options: ScoreOptions) -> dict[str, Any]:
    """Evaluate, write the figures, and return them.

    Raises:
        UserError: neither a run nor a model is named, or the run has no checkpoint.
        RunFailure: a worker failed.
    """
    from lumiray.registry import system as make_system
    from lumiray.system import stage_named
    from lumiray.train.manifest import latest
    from lumiray.train.score import Asked, Subject, score_on_workers, whole_patterns

    job = job_of(slug, options)
    classes = read_classes(options.class_names, options.templates)
    shards = find(whole_patterns(options.val_shards))  # a missing shard is found before anything is started
    checkpoint = options.checkpoint and absolute(options.checkpoint)
    if options.run and not checkpoint:
        manifest = latest(absolute(options.run))
        if manifest is None:
            raise UserError(f"--run {options.run} has no complete checkpoint yet.")
        checkpoint = manifest.url
    stage = stage_named(make_system(job.slug, job.system), None)
    asked = Asked(options.workers, options.batch_size, options.precision, options.device, classes, options.best)
    found, _ = score_on_workers(Subject(job, stage.name, checkpoint), shards, asked)
    now = time.time()
    figures = {"time": now, "checkpoint": checkpoint, "val_shards": options.val_shards, **found}
    name = f"scores/{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}.json"
    place = options.output or join(options.run or ".", name)
    write_atomically(place, json.dumps(figures, indent=1).encode())
    return figures | {"written": place}


def job_of(slug: str, options: ScoreOptions) -> JobConfig:
    """The job whose networks are evaluated: the run's own, or a model that is named.

    Raises:
        UserError: options that say nothing to evaluate, or two things, or a number that cannot be.
    """
    check_number("workers", options.workers, 1)
    check_number("batch-size", options.batch_size, 1)
    check_number("best", options.best, 0)
    if options.run and (options.model or options.weights):
        raise UserError("--run and --model with --weights both say what to evaluate; leave one out.")
    if options.checkpoint and not options.run:
        raise UserError("--checkpoint is one of a run: say which with --run.")
    if options.run:
        return job_from(slug, read_settings(join(options.run, "config.yaml")), f"--run {options.run}")
    if not options.model:
        raise UserError("Say what to evaluate: --run OUTPUT, or --model NAME --weights TAG_OR_FILE.")
    if not options.weights:
        raise UserError(f"--model {options.model} needs --weights: fresh weights retrieve nothing.")
    job = job_from(slug, {"model": options.model, "weights": options.weights}, "command line")
    from lumiray.registry import system as make_system

    return replace(job, system=make_system(slug, job.system).portable())
