"""Evaluation of a finished run, or of weights in a file, over any number of workers.

The same stream and the same evaluators as during training, without engines: every worker holds the whole
network, and embeds its share of the rows.  Results do not depend on the number of workers.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from lumiray.config import JobConfig
from lumiray.data.stream import Decoders, StreamSpec
from lumiray.errors import RunFailure, UserError


@dataclass(frozen=True)
class ScoreSpec:
    """What every scoring worker needs.

    Args:
        checkpoint: address of a checkpoint, or None to use the weights that the job's configuration names.
        precision: fp32 | bf16 | fp16 of the forward passes.
    """

    job: JobConfig
    stream: StreamSpec
    stage: str
    checkpoint: str | None
    precision: str
    decoders: Decoders
    device: str
    threads: int
    keep_rows: str | None = None


def score_worker(spec: ScoreSpec, board: Any) -> None:
    """Entry point of a Ray Train worker: embed this rank's rows, compute, rank 0 hands over the metrics."""
    import ray
    import ray.train
    import torch

    from lumiray.data.feed import Feed
    from lumiray.data.stream import evaluation_items
    from lumiray.evaluate.named import evaluator
    from lumiray.registry import system as make_system
    from lumiray.system import stage_named

    context = ray.train.get_context()
    rank, num_ranks = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(spec.threads)
    device = torch.device("cuda", torch.cuda.current_device()) if spec.device == "gpu" else torch.device("cpu")
    feed = Feed(evaluation_items(spec.stream, rank, num_ranks, spec.decoders), 0, device)
    system = make_system(spec.job.slug, spec.job.system)
    stage = stage_named(system, spec.stage)
    networks = system.build(stage)
    if spec.checkpoint:
        from lumiray.train.checkpoint import export_model, open_checkpoint

        networks.load_state_dict(export_model(open_checkpoint(spec.checkpoint)))
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[spec.precision]
    networks.to(device, dtype).eval()
    evaluators = [evaluator(name) for name in stage.metrics]
    try:
        with torch.inference_mode():
            for delivery in feed.evaluation(0):
                outputs = system.embed(delivery.tensors)
                for one in evaluators:
                    one.update(outputs, delivery.tensors)
    finally:
        feed.close()
    metrics: dict[str, float] = {}
    for one in evaluators:
        metrics |= one.compute()
    if rank == 0:
        ray.get(board.answer.remote(metrics))


def score(spec: ScoreSpec, workers: int, resources: dict[str, float]) -> dict[str, float]:
    """Start the workers and wait for their metrics.  Ray must be up.

    Raises:
        RunFailure: a worker failed; its reason is in the message.
    """
    import ray
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    from lumiray.train.board import Board
    from lumiray.train.cluster import ray_scratch
        from lumiray.train.worker import user_error_behind

    board = Board.remote()
    trainer = TorchTrainer(
        lambda config: score_worker(config["spec"], config["board"]),
        train_loop_config={"spec": spec, "board": board},
        torch_config=TorchConfig(backend="nccl" if spec.device == "gpu" else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=spec.device == "gpu", resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name=f"lumiray-score-{uuid.uuid4().hex[:12]}", storage_path=ray_scratch()
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        raise user_error_behind(error) or RunFailure(f"evaluation failed: {error}") from error
    metrics = ray.get(board.answered.remote())
    if metrics is None:
        raise UserError("evaluation gave no metrics: the stage names none.")
    return metrics
