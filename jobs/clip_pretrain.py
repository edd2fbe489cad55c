#!/usr/bin/env python
"""CLIP pretraining and fine-tuning from sharded image-text data.

    python jobs/clip_pretrain.py --shards 's3://bucket/set/{00000..41455}.tar' --model ViT-B-32 --workers 64 \
        --global-batch-size 32768 --steps 400000 --zero 1 --precision bf16 --output s3://bucket/runs/b32
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models")]

from lumiray.command import run
from lumiray.config import JobConfig


def train(job: JobConfig) -> None:
    """Run the job to its end."""
    from lumiray.train.launch import train as launch

    launch(job)


def dry_run(job: JobConfig) -> str:
    """What the job would do, as text."""
    from lumiray.train.dry_run import describe_job

    return describe_job(job)


if __name__ == "__main__":
    run("clip", str(__doc__), train, dry_run)
