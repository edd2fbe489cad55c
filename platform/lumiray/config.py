"""Configuration of a training run, as data: frozen dataclasses without torch, so that `--help` is fast.

Names at the top level are the same in every training job.  A system brings its own dataclass
(`lumizoo.clip.config.ClipConfig`); a job is the pair of both.  Checks that need nothing but the values are
made here, before anything starts; what can only be known later is checked where it becomes known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from lumiray.errors import UserError


@dataclass(frozen=True)
class DataConfig:
    """Reading, order and decoding of rows (DESIGN: the plan)."""

    slice_rows: int = 16
    """Neighbouring rows that travel together: longer slices cost fewer range reads and shuffle less."""
    group_rows: int = 4096
    """Rows that are shuffled among each other after slices have been shuffled over the whole epoch."""
    decoders: int = 0
    """Decoding processes per worker; 0 chooses from the cluster's free cores."""
    ahead: int = 4
    """Blocks of decoded rows kept ready per worker; bounds memory."""
    bad_rows: Literal["skip", "fail"] = "skip"
    """What a row that cannot be decoded does: it is replaced and logged, or stops the run."""
    bad_rows_limit: float = 0.01
    """Share of substituted rows past which the run stops."""
    index: str | None = None
    """Folder for the index of row offsets; beside the shards, or in the cache, if not given."""


@dataclass(frozen=True)
class EngineConfig:
    """What the DeepSpeed engine does besides `--zero` and `--precision`."""

    offload_optimizer: Literal["none", "cpu", "nvme"] = "none"
    """Where optimizer state lives."""
    offload_parameters: Literal["none", "cpu", "nvme"] = "none"
    """Where parameters live between uses (ZeRO 3)."""
    nvme_path: str | None = None
    """Folder on a fast local disk for nvme offload."""
    clip_norm: float = 0.0
    """Gradients are scaled down to this global norm; 0 leaves them."""
    compile: bool = False
    """torch.compile on the networks (ZeRO 0 to 2)."""
    deepspeed: str | None = None
    """Path of your own DeepSpeed JSON; sizes, precision and clipping that it names are refused here."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Values that replace the system's published ones where given."""

    name: Literal["adamw", "sgd"] | None = None
    """Optimizer; sgd is plain, for tests of gradients."""
    weight_decay: float | None = None
    """Decoupled weight decay."""
    betas: tuple[float, float] | None = None
    """AdamW's coefficients."""
    eps: float | None = None
    """AdamW's epsilon."""
    schedule: Literal["cosine", "constant", "constant-cooldown"] | None = None
    """Learning rate after the warm-up."""
    cooldown: int = 0
    """Last steps with falling rate (constant-cooldown)."""
    cooldown_power: float = 1.0
    """Power of the cool-down."""
    cooldown_end: float = 0.0
    """Learning rate at the end of the cool-down."""
    lr_rule: Literal["none", "linear", "sqrt"] = "none"
    """How the published learning rate follows another global batch than the published one."""


@dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written and which stay."""

    every: int = 1000
    """Steps between checkpoints; one is always written at the end and when the run is told to stop."""
    keep: int = 3
    """Newest checkpoints that stay."""
    best: str | None = None
    """Metric whose best checkpoint stays too, such as text_to_image_R@10; a leading - prefers low values."""


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation on `--val-shards`."""

    every: int = 0
    """Steps between evaluations; 0 evaluates at the end only."""
    batch_size: int = 0
    """Rows per forward; 0 takes the micro-batch's size."""
    class_names: str | None = None
    """Zero-shot classification: a file with one class per line, or `imagenet`."""
    templates: str | None = None
    """A file with one template per line, with {} for the class; or `openai`, `simple`."""


@dataclass(frozen=True)
class LogConfig:
    """Where progress goes."""

    every: int = 10
    """Steps between logged rows."""
    wandb: str | None = None
    """Weights & Biases project."""
    mlflow: str | None = None
    """MLflow experiment (the server is MLFLOW_TRACKING_URI)."""


@dataclass(frozen=True)
class RunConfig:
    """What a training job is asked to do; the same names in every job."""

    shards: str | None = None
    """Training shards: a folder, brace or glob pattern, list with `::`, or s3:// address of any of them."""
    val_shards: str | None = None
    """Shards for evaluation, in the same forms."""
    output: str | None = None
    """Folder of the run, local or s3://: configuration, metrics, checkpoints, report."""
    workers: int = 1
    """Training processes; on GPU clusters one GPU each."""
    global_batch_size: int | None = None
    """Rows per optimizer step over all workers; the system's published one if not given."""
    micro_batch_size: int | None = None
    """Rows per forward; the published one, or the global batch divided by the workers."""
    steps: int | None = None
    """Optimizer steps of the whole run."""
    epochs: float | None = None
    """Length of the run in passes over the shards."""
    zero: Literal[0, 1, 2, 3] | None = None
    """ZeRO stage (0 if neither this nor a DeepSpeed JSON says it)."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Working precision; fp32 master weights are kept besides."""
    lr: float | None = None
    """Peak learning rate; the published one if not given."""
    warmup: int | None = None
    """Steps of linear warm-up."""
    seed: int = 0
    """Seed of the order of rows, augmentation, initial weights and dropout."""
    resume: str = "auto"
    """auto continues the run in `output` if there is one; never refuses it; a path starts from it."""
    accept_changes: tuple[str, ...] = ()
    """Settings, by name, in which a continued run may differ from what it was."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto uses GPUs where the cluster has them."""
    retries: int = 3
    """Times that the worker group is started again after a failure, from the last checkpoint."""
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluate: EvaluationConfig = field(default_factory=EvaluationConfig)
    log: LogConfig = field(default_factory=LogConfig)


@dataclass(frozen=True)
class JobConfig:
    """A run of one system: everything that decides its result, and what repeats it."""

    slug: str
    run: RunConfig
    system: Any  # the system's own frozen dataclass


def _at_least(low: float, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and value < low:
            flag = "--" + name.replace("__", ".").replace("_", "-")
            raise UserError(f"{flag} is {value}; it must be at least {low:g}.")


def check_run(run: RunConfig) -> None:
    """Refuse values that cannot work and pairs that disagree.

    Raises:
        UserError: names the option, its value, and what is allowed.
    """
    if not run.shards:
        raise UserError("--shards is missing: say where the training shards are (folder, pattern or s3://).")
    if not run.output:
        raise UserError("--output is missing: say where the run's results go (folder or s3://).")
    if (run.steps is None) == (run.epochs is None):
        raise UserError("Give --steps or --epochs, one of the two: they both say how long the run is.")
    if run.zero is not None and run.engine.deepspeed:
        raise UserError("--zero and --engine.deepspeed both set the ZeRO stage; leave one out.")
    _at_least(
        1,
        workers=run.workers,
        global_batch_size=run.global_batch_size,
        micro_batch_size=run.micro_batch_size,
        steps=run.steps,
        data__slice_rows=run.data.slice_rows,
        data__ahead=run.data.ahead,
        checkpoint__every=run.checkpoint.every,
        checkpoint__keep=run.checkpoint.keep,
        log__every=run.log.every,
    )
    _at_least(
        0,
        lr=run.lr,
        warmup=run.warmup,
        retries=run.retries,
        epochs=run.epochs,
        data__decoders=run.data.decoders,
        evaluate__every=run.evaluate.every,
        engine__clip_norm=run.engine.clip_norm,
    )
    if run.data.group_rows % run.data.slice_rows:
        raise UserError(
            f"--data.group-rows {run.data.group_rows} is not a multiple of --data.slice-rows "
            f"{run.data.slice_rows}: a group is a whole number of slices."
        )
    if run.engine.offload_parameters != "none" and run.zero != 3:
        raise UserError("--engine.offload-parameters needs --zero 3: lower stages keep parameters whole.")
    if run.engine.offload_optimizer != "none" and not run.zero:
        raise UserError("--engine.offload-optimizer needs --zero 1 or more.")
    if "nvme" in (run.engine.offload_optimizer, run.engine.offload_parameters) and not run.engine.nvme_path:
        raise UserError("nvme offload needs --engine.nvme-path: a folder on a fast local disk.")
    if run.engine.compile and run.zero == 3:
        raise UserError("--engine.compile works with --zero 0 to 2; ZeRO 3 repartitions what was compiled.")
