"""Evaluation of a finished run, or of weights in a file, over any number of workers.

The same stream and the same evaluators as during training, without engines: every worker holds the whole
network, and embeds its share of the rows.  Results do not depend on the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from lumiray.config import JobConfig
from lumiray.data.entries import EVALUATE, StreamSpec, num_evaluation_batches
from lumiray.data.index import ShardSet
from lumiray.data.listing import Listed, split_patterns
from lumiray.data.stream import Decoders
from lumiray.errors import RunFailure, UserError
from lumiray.evaluate.classes import Classes
from lumiray.storage import absolute
from lumiray.system import System, stage_named

if TYPE_CHECKING:  # workers import torch once their rows are on the way
    from lumiray.evaluate.fidelity import Measure
    from lumiray.evaluate.named import Evaluator


@dataclass(frozen=True)
class Subject:
    """Networks that are evaluated.

    Args:
        stage: whose networks and metrics count.
        checkpoint: its address; None for the weights that the job's settings name.
    """

    job: JobConfig
    stage: str
    checkpoint: str | None


@dataclass(frozen=True)
class Asked:
    """How it is evaluated, and what is found besides the figures of the stage.

    Args:
        batch_size: rows of one forward pass.
        precision: of the forward passes.
        device: auto takes GPUs if the cluster has any.
        classes: of a zero-shot classification.
        num_best: best pictures of every text.
        num_worst: pictures with the lowest first measure, and the figures of every picture; None for neither.
        measures: of pictures, that no stage names: name -> what makes the measure, once on each worker.
        evaluators: what makes the evaluations that count in place of those that the stage names; empty for these.
    """

    workers: int
    batch_size: int
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    device: Literal["auto", "cpu", "gpu"] = "auto"
    classes: Classes | None = None
    num_best: int = 0
    num_worst: int | None = None
    measures: Mapping[str, Callable[[], Measure]] = field(default_factory=dict)
    evaluators: Sequence[Callable[[], Evaluator]] = ()


@dataclass(frozen=True)
class ScoreSpec:
    """What every evaluating worker needs."""

    subject: Subject
    asked: Asked
    stream: StreamSpec
    decoders: Decoders
    device: str
    threads: int


def whole_patterns(patterns: str) -> str:
    """Patterns of shards that hold in any working directory."""
    return "::".join(absolute(one) for one in split_patterns(patterns))


def score_on_workers(subject: Subject, shards: Sequence[Listed], asked: Asked) -> tuple[dict[str, Any], ShardSet]:
    """Evaluate on listed shards.

    Returns:
        `metrics`, name -> figure, and what else was asked for: `best` (`RetrievalEvaluator.best_pictures`), `pictures`
        (row and figure of every picture, by measure) and `worst` (`Case`s); and the shards, opened.

    Raises:
        UserError: the shards hold no rows, or as training raises it.
        RunFailure: a worker failed.
    """
    from lumiray.data.parallel import open_shards
    from lumiray.train.cluster import share_out, start_ray

    start_ray()
    import ray

    opened = open_shards(list(shards))
    if not opened.num_rows:
        raise UserError("--val-shards hold no rows.")
    run = replace(subject.job.run, workers=asked.workers, device=asked.device)
    shares = share_out(run, asked.workers, ray.cluster_resources())
    stream = evaluation_stream(subject, opened, asked.batch_size)
    spec = ScoreSpec(subject, asked, stream, shares.decoders, shares.device, shares.threads)
    return _fit(spec, asked.workers, shares.worker), opened


def evaluation_stream(subject: Subject, shards: ShardSet, batch_size: int) -> StreamSpec:
    """The stream of an evaluation by itself."""
    from lumiray.data.plan import Plan, PlanSettings, Source

    job = subject.job
    return StreamSpec(
        slug=job.slug,
        system_config=job.system,
        stage=subject.stage,
        plan=Plan((Source("none", 1),), PlanSettings(), 1, 1, job.run.seed),  # nothing is trained
        sources=(),
        seed=job.run.seed,
        total_steps=0,
        validation=shards,
        evaluation_batch_size=batch_size,
    )


def score_worker(spec: ScoreSpec, board: Any) -> None:
    """Entry point of a Ray Train worker: embed this rank's rows, compute, rank 0 hands over the figures."""
    import ray
    import ray.train
    import torch

    from lumiray.data.feed import Feed
    from lumiray.data.stream import evaluation_items
    from lumiray.evaluate.named import evaluated, evaluators
    from lumiray.train.bad_rows import LeftOut

    context = ray.train.get_context()
    rank, num_ranks = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(spec.threads)
    on_gpu = spec.device == "gpu"
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    feed = Feed(evaluation_items(spec.stream, rank, num_ranks, spec.decoders), 0, device)
    try:
        system = built(spec.subject)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[spec.asked.precision]
        system.networks.to(device, dtype).eval()
        with torch.inference_mode():
            own = spec.asked.evaluators
            metrics = () if own else stage_named(system, spec.subject.stage).metrics
            evaluations = [*evaluators(metrics, spec.asked.classes, system.embed_texts), *(make() for make in own)]
            more = _further(spec.asked, evaluations)
            count = num_evaluation_batches(spec.stream, num_ranks)
            left_out = LeftOut(lambda text: board.show.remote(text, False))
            batches = (left_out.tensors(feed.take(EVALUATE, 0)) for _ in range(count))
            figures = evaluated([*evaluations, *more], batches, system.embed) | left_out.figures()
    finally:
        feed.close()
    found = {"metrics": figures} | _besides(spec.asked, [*evaluations, *more], rank)
    if rank == 0:
        ray.get(board.answer.remote(found))


def built(subject: Subject) -> System:
    """The system with the networks of the stage, filled from the checkpoint or the file of its settings.

    Raises:
        UserError: weights that do not fit.
    """
    from lumiray.evaluate.run_weights import with_local_weights
    from lumiray.registry import system as make_system
    from lumiray.train.chain import fill
    from lumiray.train.checkpoint import export_model, open_checkpoint

    with with_local_weights(subject.job.slug, subject.job.system) as config:
        system = make_system(subject.job.slug, config)
        system.build(stage_named(system, subject.stage))
    if subject.checkpoint:  # networks that no player moves are not in it
        fill(system, export_model(open_checkpoint(subject.checkpoint)), f"checkpoint {subject.checkpoint}")
    return system


def _further(asked: Asked, evaluations: Sequence[Evaluator]) -> list[Evaluator]:
    """Evaluators that a stage does not name."""
    from lumiray.evaluate.fidelity import FidelityEvaluator
    from lumiray.evaluate.worst import WorstPictures

    found: list[Evaluator] = [FidelityEvaluator(name, make()) for name, make in asked.measures.items()]
    named = [one.measure for one in evaluations if isinstance(one, FidelityEvaluator)]
    return [*found, WorstPictures(named[0], asked.num_worst)] if asked.num_worst and named else found


def _besides(asked: Asked, evaluations: Sequence[Evaluator], rank: int) -> dict[str, Any]:
    """What was asked for besides figures; every rank must call it."""
    from lumiray.evaluate.fidelity import FidelityEvaluator
    from lumiray.evaluate.retrieval import RetrievalEvaluator
    from lumiray.evaluate.worst import WorstPictures

    found: dict[str, Any] = {"pictures": {}} if asked.num_worst is not None else {}
    for one in evaluations:
        if isinstance(one, FidelityEvaluator) and asked.num_worst is not None:
            found["pictures"][one.name] = {name: column.tolist() for name, column in one.of_rows().items()}
        if isinstance(one, WorstPictures):
            found["worst"] = one.cases()
        if isinstance(one, RetrievalEvaluator) and asked.num_best and rank == 0:
            found["best"] = one.best_pictures(asked.num_best)
    return found


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
