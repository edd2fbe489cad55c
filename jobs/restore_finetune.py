#!/usr/bin/env python
"""Training and fine-tuning of a restoration system on shards of pairs, with PSNR and SSIM on pairs that it never saw.

    python jobs/restore_finetune.py cidnet --shards 's3://bucket/lol/{00..15}.tar' --val-shards 's3://bucket/eval15' \
        --workers 8 --epochs 1500 --crop-size 400 --vgg-weights vgg19-dcbb9e9d.pth --output s3://bucket/runs/cidnet
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models")]

from lumiray.command import run_named
from lumiray.config import JobConfig

ELSEWHERE = {"clip": "jobs/clip_pretrain.py", "glip": "jobs/glip_pretrain.py"}  # systems that restore nothing


def train(job: JobConfig) -> None:
    """Run the job to its end."""
    from lumiray.train.launch import train as launch

    launch(job)


def dry_run(job: JobConfig) -> str:
    """What the job would do, as text."""
    from lumiray.train.dry_run import describe_job

    return describe_job(job)


if __name__ == "__main__":
    run_named(str(__doc__), train, dry_run, ELSEWHERE)
