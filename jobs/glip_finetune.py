#!/usr/bin/env python
"""GLIP fine-tuned, as a whole or only its prompt, on shards of pictures with boxes of named classes.

    python jobs/glip_finetune.py --shards shards/ --val-shards held-out/ --weights glip_tiny_model_o365_goldg.pth \\
        --vocabulary vocab.txt --epochs 24 --engine.clip-norm 1 --output runs/tuned

    python jobs/glip_finetune.py --stage prompt --shards shards/ --weights runs/glip --vocabulary vocab.txt \\
        --epochs 10 --output runs/prompt
"""

import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models")]

from lumiray.command import run
from lumiray.config import JobConfig
from lumiray.errors import UserError
from lumiray.evaluate.run_weights import is_folder

STAGES = ("finetune", "prompt")


def of_stage(job: JobConfig) -> JobConfig:
    """The job with its stage, and with a run that --weights name as what it starts from.

    Raises:
        UserError: a stage of another job, or two things to start from.
    """
    stage, weights, start = job.run.stage or STAGES[0], job.system.weights, job.run.start_from
    if stage not in STAGES:
        raise UserError(f"--stage is {stage!r}; this job has {' and '.join(STAGES)}, jobs/glip_pretrain.py the other.")
    if weights is None or not is_folder(weights):
        return replace(job, run=replace(job.run, stage=stage))
    if start is not None:
        raise UserError("--from and --weights both name a run to start from; leave one out.")
    return replace(job, run=replace(job.run, stage=stage, start_from=weights), system=replace(job.system, weights=None))


def train(job: JobConfig) -> None:
    """Run the job to its end."""
    from lumiray.train.launch import train as launch

    launch(of_stage(job))


def dry_run(job: JobConfig) -> str:
    """What the job would do, as text."""
    from lumiray.train.dry_run import describe_job

    return describe_job(of_stage(job))


if __name__ == "__main__":
    run("glip", str(__doc__), train, dry_run)
