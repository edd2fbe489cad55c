#!/usr/bin/env python
"""GLIP pretraining on shards of pictures with boxes that words of a caption, or names of classes, speak of.

    python jobs/glip_pretrain.py --shards 's3://bucket/goldg/{00000..00799}.tar' --vocabulary vocab.txt \\
        --swin-weights swin_tiny_patch4_window7_224.pth --bert-weights bert-base-uncased.bin \\
        --workers 32 --zero 1 --engine.clip-norm 1 --output s3://bucket/runs/glip-t
"""

import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models")]

from lumiray.command import run
from lumiray.config import JobConfig


def of_stage(job: JobConfig) -> JobConfig:
    """The job with its stage: glip_finetune.py has the others."""
    return replace(job, run=replace(job.run, stage=job.run.stage or "pretrain"))


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
