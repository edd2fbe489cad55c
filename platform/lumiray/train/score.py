"""Evaluation of a finished run, or of weights in a file, over any number of workers.

The same stream and the same evaluators as during training, without engines: every worker holds the whole
network, and embeds its share of the rows.  Results do not depend on the number of workers.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import Any, Literal

from lumiray.config import JobConfig
from lumiray.data.entries import EVALUATE, StreamSpec, num_evaluation_batches
from lumiray.data.listing import expand
from lumiray.data.stream import Decoders
from lumiray.errors import RunFailure, UserError, check_number
from lumiray.evaluate.classes import Classes, read_classes
from lumiray.settings_file import job_from, read_settings
from lumiray.storage import absolute, join, write_atomically
from lumiray.system import stage_named


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


@dataclass(frozen=True)
class ScoreSpec:
    """What every evaluating worker needs; `checkpoint` is None for weights of the configuration."""

    job: JobConfig
    stream: StreamSpec
    stage: str
    checkpoint: str | None
    precision: str
    decoders: Decoders
    device: str
    threads: int
    classes: Classes | None
    num_best: int


def score(slug: str, options: ScoreOptions) -> dict[str, Any]:
    """Evaluate, write the figures, and return them.

    Raises:
        UserError: neither a run nor a model is named, or the run has no checkpoint.
        RunFailure: a worker failed.
    """
    from lumiray.train.cluster import share_out, start_ray
    from lumiray.train.manifest import latest

    job = job_of(slug, options)
    classes = read_classes(options.class_names, options.templates)
    expand(options.val_shards)  # a missing shard is found before anything is started
    checkpoint = options.checkpoint and absolute(options.checkpoint)
    if options.run and not checkpoint:
        manifest = latest(absolute(options.run))
        if manifest is None:
            raise UserError(f"--run {options.run} has no complete checkpoint yet.")
        checkpoint = manifest.url
    start_ray()
    import ray

    stream, stage = evaluation_stream(job, options)
    run = replace(job.run, workers=options.workers, device=options.device)
    shares = share_out(run, options.workers, ray.cluster_resources())
    spec = ScoreSpec(
        job,
        stream,
        stage,
        checkpoint,
        options.precision,
        shares.decoders,
        shares.device,
        shares.threads,
        classes=classes,
        num_best=options.best,
    )
    found = _fit(spec, options.workers, shares.worker)
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


def evaluation_stream(job: JobConfig, options: ScoreOptions) -> tuple[StreamSpec, str]:
    """The stream of an evaluation by itself, and its stage."""
    from lumiray.data.listing import find, split_patterns
    from lumiray.data.parallel import open_shards
    from lumiray.data.plan import Plan, PlanSettings, Source
    from lumiray.registry import system as make_system

    patterns = "::".join(absolute(one) for one in split_patterns(options.val_shards))
    shards = open_shards(find(patterns))
    stage = stage_named(make_system(job.slug, job.system), None)
    plan = Plan((Source("none", 1),), PlanSettings(), 1, 1, job.run.seed)  # nothing is trained
    stream = StreamSpec(
        slug=job.slug,
        system_config=job.system,
        stage=stage.name,
        plan=plan,
        sources=(),
        seed=job.run.seed,
        total_steps=0,
        validation=shards,
        evaluation_batch_size=options.batch_size,
    )
    return stream, stage.name


def score_worker(spec: ScoreSpec, board: Any) -> None:
    """Entry point of a Ray Train worker: embed this rank's rows, compute, rank 0 hands over the figures."""
    import ray
    import ray.train
    import torch

    from lumiray.data.feed import Feed
    from lumiray.data.stream import evaluation_items
    from lumiray.evaluate.named import evaluated, evaluators
    from lumiray.evaluate.retrieval import RetrievalEvaluator
    from lumiray.registry import system as make_system
    from lumiray.train.bad_rows import LeftOut

    context = ray.train.get_context()
    rank, num_ranks = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(spec.threads)
    on_gpu = spec.device == "gpu"
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    feed = Feed(evaluation_items(spec.stream, rank, num_ranks, spec.decoders), 0, device)
    system = make_system(spec.job.slug, spec.job.system)
    stage = stage_named(system, spec.stage)
    networks = system.build(stage)
    if spec.checkpoint:
        from lumiray.train.checkpoint import export_model, open_checkpoint

        networks.load_state_dict(export_model(open_checkpoint(spec.checkpoint)))
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[spec.precision]
    networks.to(device, dtype).eval()
    try:
        with torch.inference_mode():
            evaluations = evaluators(stage.metrics, spec.classes, system.embed_texts)
            count = num_evaluation_batches(spec.stream, num_ranks)
            left_out = LeftOut(lambda text: board.show.remote(text, False))
            batches = (left_out.tensors(feed.take(EVALUATE, 0)) for _ in range(count))
            metrics = evaluated(evaluations, batches, system.embed) | left_out.figures()
            found: dict[str, Any] = {"metrics": metrics}
    finally:
        feed.close()
    if rank == 0:
        for one in evaluations:
            if spec.num_best and isinstance(one, RetrievalEvaluator):
                found["best"] = one.best_pictures(spec.num_best)
        ray.get(board.answer.remote(found))


def _fit(spec: ScoreSpec, workers: int, resources: dict[str, float]) -> dict[str, Any]:
    """Start the workers and wait for their figures.  Ray must be up."""
    import ray

    from lumiray.train.board import Board, shown
    from lumiray.train.failure import user_error_behind
    from lumiray.train.group import Group, run_group

    board: Any = Board.remote()  # type: ignore[attr-defined]
    group = Group("lumiray-score", workers, spec.device, resources)
    try:
        with shown(board):
            run_group(group, score_worker, spec, board)
    except Exception as error:
        raise user_error_behind(error) or RunFailure(f"evaluation failed: {error}") from error
    found = ray.get(board.answered.remote())
    if found is None:
        raise RunFailure("evaluation ended without figures.")
    return found


__all__ = ["ScoreOptions", "score"]
