"""The driver of a study: check, open the records, let Ray Tune run trials until the records say that it is enough.

    python jobs/search.py cidnet --shards ... --val-shards ... --steps 1000 --evaluate.every 100 \\
        --metric psnr --trials 64 --scheduler asha --output studies/cidnet

Ray Tune executes and its schedulers stop trials, Optuna's samplers choose values, and what counts is in the study's
records: given again, the command keeps trials that ended and goes on with the others from their checkpoints.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lumiray import __version__
from lumiray.config import JobConfig, check_run
from lumiray.errors import Interrupted, UserError
from lumiray.registry import system as make_system
from lumiray.settings_file import to_yaml
from lumiray.storage import absolute, exists, join
from lumiray.train.chain import IDENTITY
from lumiray.train.checks import check_job, independent_of_here
from lumiray.train.launch import make_stream, on_signals
from lumiray.tune.changeable import check_changeable
from lumiray.tune.earlier import earlier_trials
from lumiray.tune.lease import lease
from lumiray.tune.options import SearchOptions, check_options, grid_size
from lumiray.tune.place import place_of
from lumiray.tune.space import Space, check_space, fields_of
from lumiray.tune.space_file import find_space
from lumiray.tune.study import Study, Trial, database_errors, described, open_study
from lumiray.tune.summary import study_name

if TYPE_CHECKING:  # it imports ray, which the checks do without
    from lumiray.tune.course import Course

CARRIED_OUT = {  # how trials are carried out; the study goes on under other values
    *("output", "workers", "device", "retries", "resume", "accept_changes", "data.decoders", "data.index"),
    *("data.cache", "data.cache_gb", "log.every", "log.wandb", "log.mlflow", "checkpoint.every", "checkpoint.keep"),
}
LONG = 10**9  # steps that no trial reaches: rungs go on as long as trials do


def search(job: JobConfig, options: SearchOptions, space: Space | None = None) -> Study:
    """Run a study to its end, or go on with it.

    Args:
        job: what trials vary; its output is the study's folder.
        space: what is varied, in place of `options.space`.

    Raises:
        UserError: bad use, found before anything was started.
        RunFailure: no trial came to its end, or the records cannot be written.
        Interrupted: told to stop; the same command goes on.
    """
    check_options(options, job)
    check_run(job.run)
    job = _one_stage(independent_of_here(job))
    given, source = (space, "the space") if space is not None else find_space(job.slug, options.space)
    check_space(given, job, source)
    if options.source == "grid":
        grid_size(given)
    if options.trains_population:
        check_changeable(given, job, options.scheduler, source)
    output = str(job.run.output)
    if exists(join(output, IDENTITY)):
        raise UserError(f"--output {output} holds a run; give the study a folder of its own.")
    checked = check_job(job)
    with lease(output):
        study = open_study(place_of(output, options.storage, new=True), study_name(output), about(job, options, given))
        fresh = options.learn_from and not study.trials()  # else it has them, and the other study may be gone
        earlier = earlier_trials(options, job.slug, given, output) if fresh else []
        from lumiray.data.parallel import open_shards
        from lumiray.train.cluster import start_ray

        start_ray()
        stream = make_stream(checked, open_shards)  # shards without an index get it here, once for all trials
        if options.grace is not None and options.grace > stream.total_steps:
            raise UserError(f"--grace {options.grace} is longer than a trial, which has {stream.total_steps} steps.")
        study.take(given, earlier, str(options.learn_from))
        most = min(options.trials, grid_size(given)) if options.source == "grid" else options.trials

        def next_trial() -> Trial | None:
            if options.trains_population:
                enough = sum(bool(one.generations) for one in study.trials()) >= most
                return None if enough else study.draw(given, job.run.seed)
            enough = len(study.trials()) >= most
            return None if enough else study.ask(given, options.source, job.run.seed)

        drive(study, options, job, next_trial, given)
    return study


def _one_stage(job: JobConfig) -> JobConfig:
    """The job, of which a search varies one stage."""
    if job.run.stage is None and len(stages := make_system(job.slug, job.system).stages()) > 1:
        names = ", ".join(one.name for one in stages)
        raise UserError(f"{job.slug} has several stages, and a search varies one: name it with --stage ({names}).")
    return job


def about(job: JobConfig, options: SearchOptions, space: Space) -> dict[str, Any]:
    """What a study is: a search goes on only as that."""
    grace = options.grace if options.scheduler != "none" else None
    found: dict[str, Any] = {"system": job.slug, "version": __version__, "metric": options.metric}
    found |= {"algorithm": options.source, "scheduler": options.scheduler, "grace": grace}
    if options.trains_population:
        found["trials"] = options.trials  # a population begins as a whole
    if options.learn_from:
        found["learn_from"] = absolute(options.learn_from)
    for name in fields_of(job.slug):
        if name not in CARRIED_OUT:
            found[name] = _plain(_value(job, name))
    return found | described(space) | {"job": to_yaml(job)}


def _value(job: JobConfig, name: str) -> Any:
    value: Any = job.run if hasattr(job.run, name.partition(".")[0]) else job.system
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def drive(
    study: Study, options: SearchOptions, job: JobConfig, new: Callable[[], Trial | None], space: Space | None = None
) -> None:
    """Let Tune run trials until the study is over.  Ray must be up.

    Args:
        job: what trials vary; its output is the study's.
        new: begins one more trial; None when there are enough.
        space: what a population changes.

    Raises:
        UserError, RunFailure, Interrupted: see `search`.
    """
    os.environ |= {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a trial's own run has its metrics and event files
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial has none
        "RAY_AIR_NEW_OUTPUT": "0",  # the other one has no silence
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # signals are ours: trials end with a checkpoint
    }
    import ray
    from ray import tune

    from lumiray.train.board import Board
    from lumiray.train.cluster import ray_scratch
    from lumiray.tune.course import Course, Over, Recorder, outcome
    from lumiray.tune.shares import trial_share
    from lumiray.tune.trial import TrialRun

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    nodes = [one["Resources"] for one in ray.nodes() if one["Alive"]]
    share = trial_share(job.run, options, ray.cluster_resources(), nodes)
    board: Any = Board.remote()  # type: ignore[attr-defined]
    trials = study.trials()
    course = Course(study, job, new, share, board, [one for one in trials if one.state == "running"])
    print(f"{len(trials)} of {options.trials} trials are there; {share.at_once} run at once", flush=True)
    if options.trains_population and space is not None:
        numbers, how = _population(course, options, space)
    else:
        numbers, how = None, _trial_by_trial(course, options)
    if numbers == []:  # Tune would take it for no grid at all
        return outcome(course)
    tuner = tune.Tuner(
        tune.with_resources(TrialRun, tune.PlacementGroupFactory([share.process])),
        param_space={"number": tune.grid_search(numbers)} if numbers else None,
        tune_config=tune.TuneConfig(**how, reuse_actors=True, trial_dirname_creator=lambda trial: str(trial.trial_id)),
        run_config=tune.RunConfig(
            name=f"lumiray-search-{uuid.uuid4().hex[:12]}",
            storage_path=ray_scratch(),
            failure_config=tune.FailureConfig(max_failures=options.trial_retries),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # runs write their own
            callbacks=[Recorder(course)],
            stop=Over(course),
            verbose=0,
        ),
    )
    with on_signals(course.stop):
        tuner.fit()
    study.place.publish()
    if course.stopped:
        raise Interrupted(f"stopped; trials that ran left checkpoints in {job.run.output}; the same command continues.")
    outcome(course)


def _trial_by_trial(course: Course, options: SearchOptions) -> dict[str, Any]:
    """How Tune is to run trials of which each is begun when there is place for it."""
    from lumiray.tune.course import Suggester
    from lumiray.tune.schedule import make_scheduler, replayed

    scheduler = make_scheduler(options, course.job.run.evaluate.every, LONG)
    replayed(scheduler, [one for one in course.study.trials() if one.state in ("done", "stopped")])
    return {
        "search_alg": Suggester(course),
        "scheduler": scheduler,
        "num_samples": -1,
        "max_concurrent_trials": course.share.at_once,
    }


def _population(course: Course, options: SearchOptions, space: Space) -> tuple[list[int], dict[str, Any]]:
    """The numbers of a population's trials, and how Tune is to run them."""
    from lumiray.tune.exploit import Members, make_exploit
    from lumiray.tune.population import Population

    run = course.job.run
    course.space = space
    population = Population(course, space, options.grace or run.evaluate.every, run.seed, course.share.at_once)
    with database_errors(course.study.place):
        numbers = population.begin()
    return numbers, {"search_alg": Members(course), "scheduler": make_exploit(options, population)}
