"""Configuration of a training run, as data: frozen dataclasses without torch, so that `--help` is fast.

Names at the top level are the same in every training job.  A system brings its own dataclass
(`lumizoo.clip.config.ClipConfig`); a job is the pair of both.  Checks that need nothing but the values are
made here, before anything starts; what can only be known later is checked where it becomes known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from lumiray.data.filter import parse_filter
from lumiray.errors import UserError, check_number
from lumiray.sources import counting_source, training_sources


@dataclass(frozen=True)
class DataConfig:
    """How rows are read, shuffled and decoded."""

    read: Literal["slice", "shard"] = "slice"
    """What is shuffled over the epoch and read as one: slices (range reads, needs an index), or whole shards."""
    slice_rows: int = 16
    """Neighbouring rows that are read together: longer slices cost fewer range reads and shuffle less."""
    group_rows: int = 4096
    """Rows shuffled among each other, once slices or shards are shuffled; a multiple of --data.slice-rows."""
    bucket_window: int = 0
    """Global batches inside which pictures of like shapes are put into one micro-batch, to pad less; 0 is off."""
    decoders: int = 0
    """Decoding processes per worker; 0 takes what the cluster has free."""
    bad_rows: Literal["skip", "fail"] = "skip"
    """A row that cannot be decoded: skip replaces and logs it, fail stops the run."""
    bad_rows_limit: float = 0.01
    """Share of replaced rows, 0 to 1, past which the run stops."""
    filter: str | None = None
    """Which training rows are taken, by columns of the Parquet files beside the shards: 'width >= 256 and ...'."""
    index: str | None = None
    """Folder for the index of row offsets; if not given, beside the shards, or in your cache if that is read-only."""
    cache: str | None = None
    """Folder on a local disk of each host, where rows of shards on S3 are kept: later epochs read them from there."""
    cache_gb: float = 100.0
    """Size of --data.cache per host in GB, shared by its workers; what was not used for longest goes first."""


@dataclass(frozen=True)
class EngineConfig:
    """What the DeepSpeed engine does besides --zero and --precision."""

    offload_optimizer: Literal["none", "cpu", "nvme"] = "none"
    """Where optimizer state is kept: none is on the GPU, cpu in host memory (needs --zero 1 or more)."""
    offload_parameters: Literal["none", "cpu", "nvme"] = "none"
    """Where parameters are kept between uses (needs --zero 3)."""
    nvme_path: str | None = None
    """Folder on a fast local disk; needed by nvme offload."""
    clip_norm: float = 0.0
    """Gradients are scaled down to this global norm where theirs is larger; 0 leaves them."""
    compile: bool = False
    """Compile the networks with torch.compile (not with --zero 3)."""
    deepspeed: str | None = None
    """Your own DeepSpeed JSON, for what no option here says; it may not set batch sizes, precision or clipping."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer and schedule; what is not given is as published."""

    name: Literal["adamw", "adam", "sgd"] | None = None
    """adamw, adam (decay added to the gradient), or sgd without momentum (for tests of gradients)."""
    weight_decay: float | None = None
    """Weight decay, of the parameters that the system does not exempt."""
    betas: tuple[float, float] | None = None
    """AdamW's two coefficients, such as 0.9 0.98."""
    eps: float | None = None
    """AdamW's epsilon."""
    schedule: Literal["cosine", "constant", "constant-cooldown"] | None = None
    """How the learning rate goes on after the warm-up."""
    cooldown: int = 0
    """Last steps of the run, in which the rate falls (constant-cooldown)."""
    cooldown_power: float = 1.0
    """Power of the fall: 1 is linear."""
    cooldown_end: float = 0.0
    """Learning rate that the fall ends at."""
    lr_rule: Literal["none", "linear", "sqrt"] = "none"
    """Scales the published rate (where --lr is not given) by the global batch's ratio to the published, or its root."""


@dataclass(frozen=True)
class FinetuneConfig:
    """What of the networks is trained, and how fast.  Patterns are the shell's, over stored names: 'net.first.*'."""

    freeze: tuple[str, ...] = ()
    """Patterns of weights that stay as they are."""
    lr_factor: tuple[str, ...] = ()
    """Learning rates of their own, PATTERN=FACTOR; where several fit a weight, the last one counts."""
    adapter_rank: int = 0
    """Trains low-rank adapters of this rank beside linear layers and convolutions, their network frozen; 0: none."""
    adapter_alpha: float = 0.0
    """Adapters count alpha / rank; 0 takes the rank, so that they count 1."""
    adapt: tuple[str, ...] = ("*",)
    """Patterns of the layers that get adapters."""


@dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written and which stay."""

    every: int = 1000
    """Steps between checkpoints; one is also written at the end, and when the run is told to stop."""
    keep: int = 3
    """How many of the newest checkpoints stay."""
    best: str | None = None
    """Metric whose best checkpoint stays too, such as text_to_image_R@10; with a minus in front the lowest is best."""


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation on --val-shards."""

    every: int = 0
    """Steps between evaluations; 0 evaluates only at the end."""
    batch_size: int = 0
    """Rows per forward pass; 0 takes 1 where pictures differ in size, else the micro-batch's size, 512 at most."""
    class_names: str | None = None
    """Zero-shot classification of rows with a class: a file with one class name per line, or `imagenet`."""
    templates: str | None = None
    """A file with one template per line, with {} for the class; or `openai` (if not given), `simple`."""


@dataclass(frozen=True)
class LogConfig:
    """Where progress is written, besides the terminal, metrics.jsonl and TensorBoard."""

    every: int = 10
    """Steps between logged rows."""
    wandb: str | None = None
    """Weights & Biases project to write to."""
    mlflow: str | None = None
    """MLflow experiment to write to (the server is MLFLOW_TRACKING_URI)."""


@dataclass(frozen=True)
class RunConfig:
    """What a training job is asked to do; the same names in every job."""

    shards: str | None = None
    """Training shards (needed): a folder, a brace or glob pattern, the same at s3://, or several joined by `::`."""
    mix: tuple[str, ...] = ()
    """In place of --shards, several sources by weight: NAME=WEIGHT:SHARDS, such as photos=3:s3://bucket/photos."""
    val_shards: str | None = None
    """Shards to evaluate on, in the same forms; without them nothing is evaluated."""
    output: str | None = None
    """Folder of the run (needed), local or s3://: configuration, metrics, checkpoints, report."""
    workers: int = 1
    """Training processes, each with one GPU where there are GPUs."""
    global_batch_size: int | None = None
    """Rows of one optimizer step over all workers; the published number if not given."""
    micro_batch_size: int | None = None
    """Rows of one forward pass; divides the global batch. If not given: as published, or one pass per worker."""
    stage: str | None = None
    """Of a system with several stages the one to train; if not given, all of them in their order, in OUTPUT/STAGE."""
    start_from: str | None = None
    """Output of the run whose weights this one starts from (--from): of the stage before, or of the same stage."""
    steps: int | None = None
    """Length of the run in optimizer steps; this or --epochs is needed where no length is published."""
    epochs: float | None = None
    """Length of the run in passes over the training shards, in place of --steps."""
    stage_steps: tuple[str, ...] = ()
    """Steps of single stages where all are trained: STAGE=STEPS, such as vqgan=1000."""
    epochs_of: str | None = None
    """With --mix: the source whose passes --epochs counts."""
    zero: Literal[0, 1, 2, 3] | None = None
    """ZeRO stage: 1 divides optimizer state among workers, 2 gradients too, 3 parameters too; 0 if not given."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Numbers of forward and backward passes; master weights are fp32 in any case."""
    lr: float | None = None
    """Peak learning rate; the published one if not given."""
    warmup: int | None = None
    """Steps in which the learning rate rises to its peak; the published number if not given."""
    seed: int = 0
    """Decides the order of rows, augmentation, initial weights and dropout."""
    resume: str = "auto"
    """auto continues the run in --output if there is one, never refuses to; or a checkpoint's path to start from."""
    accept_changes: tuple[str, ...] = ()
    """Names of settings in which the run in --output may be continued otherwise than it began."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where networks run; auto takes GPUs if the cluster has any."""
    retries: int = 3
    """How often failed workers are started again, from the last checkpoint."""
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluate: EvaluationConfig = field(default_factory=EvaluationConfig)
    log: LogConfig = field(default_factory=LogConfig)


@dataclass(frozen=True)
class JobConfig:
    """A run of one system: everything that decides its result, and what repeats it."""

    slug: str
    run: RunConfig
    system: Any  # the system's own frozen dataclass


def check_run(run: RunConfig) -> None:
    """Refuse values that cannot work and pairs that disagree.

    Raises:
        UserError: names the option, its value, and what is allowed.
    """
    sources = training_sources(run.shards, run.mix)
    if not run.output:
        raise UserError("--output is missing: say where the run's results go (folder or s3://).")
    if run.steps is not None and run.epochs is not None:
        raise UserError("Give --steps or --epochs, one of the two: they both say how long the run is.")
    if run.epochs is not None:
        counting_source(sources, run.epochs_of)
    elif run.epochs_of:
        raise UserError("--epochs-of needs --epochs: --steps counts no passes.")
    if run.data.filter is not None:
        parse_filter(run.data.filter)
    _check_numbers(run)
    _check_pairs(run)


def _check_numbers(run: RunConfig) -> None:
    data, optimizer = run.data, run.optimizer
    at_least_1: dict[str, float | None] = {
        "workers": run.workers,
        "global-batch-size": run.global_batch_size,
        "micro-batch-size": run.micro_batch_size,
        "steps": run.steps,
        "data.slice-rows": data.slice_rows,
        "data.group-rows": data.group_rows,
        "checkpoint.every": run.checkpoint.every,
        "checkpoint.keep": run.checkpoint.keep,
        "log.every": run.log.every,
    }
    at_least_0: dict[str, float | None] = {
        "lr": run.lr,
        "warmup": run.warmup,
        "retries": run.retries,
        "data.decoders": data.decoders,
        "data.bucket-window": data.bucket_window,
        "finetune.adapter-rank": run.finetune.adapter_rank,
        "finetune.adapter-alpha": run.finetune.adapter_alpha,
        "evaluate.every": run.evaluate.every,
        "evaluate.batch-size": run.evaluate.batch_size,
        "engine.clip-norm": run.engine.clip_norm,
        "optimizer.weight-decay": optimizer.weight_decay,
        "optimizer.eps": optimizer.eps,
        "optimizer.cooldown": optimizer.cooldown,
        "optimizer.cooldown-power": optimizer.cooldown_power,
        "optimizer.cooldown-end": optimizer.cooldown_end,
    }
    for least, values in ((1, at_least_1), (0, at_least_0)):
        for option, value in values.items():
            check_number(option, value, least)
    check_number("seed", run.seed, 0, 2**63 - 1)
    check_number("data.bad-rows-limit", data.bad_rows_limit, 0, 1)
    if run.epochs is not None and not run.epochs > 0:
        raise UserError(f"--epochs is {run.epochs}; it must be above 0.")
    if not 0 < data.cache_gb < math.inf:
        raise UserError(f"--data.cache-gb is {data.cache_gb}; it must be a number of GB above 0.")
    if optimizer.betas and not all(0 <= beta < 1 for beta in optimizer.betas):
        raise UserError(f"--optimizer.betas is {optimizer.betas}; both must be at least 0 and below 1.")


def _check_pairs(run: RunConfig) -> None:
    """Refuse options that contradict each other, or that would do nothing as given."""
    data, optimizer, engine = run.data, run.optimizer, run.engine
    if run.zero is not None and engine.deepspeed:
        raise UserError("--zero and --engine.deepspeed both set the ZeRO stage; leave one out.")
    if data.read == "shard" and data.slice_rows != DataConfig.slice_rows:
        raise UserError("--data.slice-rows does nothing with --data.read shard, which has no slices: leave it out.")
    if data.read == "shard" and data.bucket_window:
        raise UserError(
            "--data.bucket-window needs the index, where shapes of pictures are kept, and --data.read shard does "
            "without one: leave one of the two out."
        )
    if data.read == "slice" and data.group_rows % data.slice_rows:
        raise UserError(
            f"--data.group-rows {data.group_rows} is not a multiple of --data.slice-rows {data.slice_rows}: a group "
            "is a whole number of slices."
        )
    if data.cache is not None and (not data.cache or "://" in data.cache.removeprefix("file://")):
        raise UserError(
            f"--data.cache is {data.cache!r}; it must be a folder on a local disk, the same path on every host, such "
            "as /mnt/nvme/cache."
        )
    if data.cache is None and data.cache_gb != DataConfig.cache_gb:
        raise UserError("--data.cache-gb needs --data.cache: the folder that it is the size of.")
    if optimizer.cooldown and optimizer.schedule != "constant-cooldown":
        raise UserError("--optimizer.cooldown needs --optimizer.schedule constant-cooldown.")
    if engine.offload_parameters != "none" and run.zero != 3:
        raise UserError("--engine.offload-parameters needs --zero 3: lower stages keep parameters whole.")
    if engine.offload_optimizer != "none" and not run.zero:
        raise UserError("--engine.offload-optimizer needs --zero 1 or more.")
    if "nvme" in (engine.offload_optimizer, engine.offload_parameters) and not engine.nvme_path:
        raise UserError("nvme offload needs --engine.nvme-path: a folder on a fast local disk.")
    if run.finetune.adapter_alpha and not run.finetune.adapter_rank:
        raise UserError("--finetune.adapter-alpha needs --finetune.adapter-rank: there are no adapters without it.")
    if run.finetune.adapt != FinetuneConfig.adapt and not run.finetune.adapter_rank:
        raise UserError("--finetune.adapt needs --finetune.adapter-rank: there are no adapters without it.")
    if engine.compile and run.zero == 3:
        raise UserError("--engine.compile works with --zero 0 to 2; ZeRO 3 repartitions what was compiled.")
