#!/usr/bin/env python
"""Train the numbered system: a job as any other, whose workers record the rows that they receive."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models"), str(ROOT / "tests" / "data" / "third_party")]

from lumiray.command import run
from lumiray.train.dry_run import describe_job
from lumiray.train.launch import train

if __name__ == "__main__":
    run("numbered", str(__doc__), train, describe_job)
