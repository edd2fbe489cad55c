"""What a search is asked to do, besides the job that its trials run.  Without ray and optuna: `--help` is fast."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lumiray.config import JobConfig
from lumiray.errors import UserError, check_number
from lumiray.tune.metric import Metric, metrics_of
from lumiray.tune.space import Choice, Space, Whole


@dataclass(frozen=True)
class SearchOptions:
    """How settings are searched; the job's own options say what every trial has in common."""

    metric: str | None = None
    """Figure of the evaluation that is to be best (needed): psnr; --metric=-loss for the lowest; psnr,ssim for both."""
    trials: int = 16
    """Trials of the study in all; the same command with more of them goes on from those that there are."""
    space: str | None = None
    """YAML file that says what is varied; if not given, the one that the system ships."""
    algorithm: Literal["tpe", "random", "grid"] | None = None
    """Where values come from: tpe learns from the trials before (if not given); random; grid (every combination)."""
    scheduler: Literal["none", "asha", "hyperband", "median", "pbt", "pb2"] = "none"
    """Ends trials early: asha, hyperband, median; or trains a population, the worst taking over the best: pbt, pb2."""
    grace: int | None = None
    """Steps before a trial may be ended, or between two takings over; if not given, up to the first evaluation."""
    learn_from: str | None = None
    """Output of another study of the same system, metric and fields, whose trials tpe learns from, too."""
    storage: str | None = None
    """Database of the study: postgresql://USER@HOST/NAME; if not given, the file study.db in --output."""
    cpus_per_trial: float = 0.0
    """Cores of a trial with its decoders, also a fraction of one; 0 is one per worker."""
    gpus_per_trial: float = 0.0
    """GPUs of a trial, also a fraction of one for trials with one worker; 0 is one per worker where there are GPUs."""
    trial_retries: int = 1
    """How often a trial is started again whose processes died; then it is marked with the reason."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is to be best."""
        return metrics_of(str(self.metric))

    @property
    def trains_population(self) -> bool:
        """Whether trials take over one another's checkpoints."""
        return self.scheduler in ("pbt", "pb2")

    @property
    def source(self) -> str:
        """The algorithm: the one that is given, or the usual one of the scheduler."""
        return self.algorithm or ("random" if self.trains_population else "tpe")


def check_options(options: SearchOptions, job: JobConfig) -> None:
    """Refuse values that cannot work and pairs that disagree.

    Raises:
        UserError: names the option, its value, and what is allowed.
    """
    if not options.metric:
        raise UserError("--metric is missing: say which figure of the evaluation is to be best, such as psnr.")
    if len(options.metrics) > 1 and options.scheduler != "none":
        raise UserError(
            f"--scheduler {options.scheduler} ends trials by one figure, and --metric {options.metric} names "
            f"{len(options.metrics)}; leave out the scheduler, or name one metric."
        )
    check_number("trials", options.trials, 1)
    check_number("trial-retries", options.trial_retries, 0)
    check_number("cpus-per-trial", options.cpus_per_trial, 0)
    check_number("gpus-per-trial", options.gpus_per_trial, 0)
    check_number("grace", options.grace, 1)
    if not job.run.val_shards:
        raise UserError("--val-shards are missing: without an evaluation no trial is better than another.")
    if options.scheduler != "none" and not job.run.evaluate.every:
        raise UserError(
            f"--scheduler {options.scheduler} needs --evaluate.every: it ends trials by the evaluations on their way."
        )
    if options.scheduler == "none" and options.grace is not None:
        raise UserError("--grace needs --scheduler asha, hyperband or median, pbt or pb2: nothing ends trials early.")
    if options.trains_population:
        _check_population(options, job.run.evaluate.every)
    if options.learn_from and options.source != "tpe":
        raise UserError(f"--learn-from needs --algorithm tpe: {options.source} learns nothing.")
    if options.storage and not options.storage.startswith(("postgresql://", "postgresql+")):
        raise UserError("--storage must be postgresql://USER@HOST/NAME; without it the study is a file in --output.")
    if job.run.resume != "auto":
        raise UserError("--resume is of one run; a search goes on from what is in its --output.")
    if options.gpus_per_trial and job.run.workers > 1 and options.gpus_per_trial != job.run.workers:
        raise UserError(f"--gpus-per-trial {options.gpus_per_trial:g}: {job.run.workers} workers take one GPU each.")


def _check_population(options: SearchOptions, every: int) -> None:
    name = options.scheduler
    if options.source != "random":
        raise UserError(
            f"--scheduler {name} chooses values itself once trials run, which {options.source} cannot follow: leave "
            "out --algorithm, and the population begins with random ones."
        )
    if options.trials < 2:
        raise UserError(f"--scheduler {name} --trials {options.trials}: a population has at least 2, better 8.")
    if name == "pb2":
        try:
            import sklearn  # noqa: F401
        except ImportError as error:
            raise UserError(f"--scheduler pb2 needs scikit-learn ({error}): pip install 'lumiray[pb2]'.") from None
    if options.grace is not None and options.grace % every:
        raise UserError(
            f"--grace {options.grace} is not a multiple of --evaluate.every {every}: --scheduler {name} compares "
            "trials by the evaluation of that step."
        )


def grid_size(space: Space) -> int:
    """How many combinations a space has.

    Raises:
        UserError: it has none that can be counted.
    """
    for axis in space.axes:
        if not isinstance(axis.over, (Choice, Whole)):
            raise UserError(
                f"--algorithm grid takes every combination, and {axis.field} has no end of them: give choices."
            )
        if axis.when:
            raise UserError(
                f"--algorithm grid varies everything, and {axis.field} depends on others; leave out its when."
            )
    return math.prod(len(values_of(axis.over)) for axis in space.axes)


def values_of(over: object) -> tuple[object, ...]:
    """All values of an axis that has an end of them, in order."""
    if isinstance(over, Whole):
        return tuple(range(over.low, over.high + 1, over.step))
    return over.values if isinstance(over, Choice) else ()
