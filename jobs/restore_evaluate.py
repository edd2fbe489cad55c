#!/usr/bin/env python
"""Figures of a trained restoration system on pairs, picture by picture, with the worst ones drawn.

python jobs/restore_evaluate.py cidnet --run runs/cidnet --val-shards held-out/ --workers 2
python jobs/restore_evaluate.py cidnet --weights LOLv1.pth --val-shards 's3://bucket/eval15' --output figures/
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models")]

from lumiray.command import guarded


def main() -> None:
    """Read the command line, evaluate, print the figures."""
    from lumiray.evaluate.evaluate_options import read_evaluate_command

    command = read_evaluate_command(sys.argv[1:], str(__doc__))
    from lumiray.train.score_pictures import evaluate_pictures  # after the line was read: help imports less

    figures, folder = evaluate_pictures(command)
    for name, value in figures.items():
        print(f"{name:28s} {value:.4f}")
    print(f"pictures.csv, summary.md and drawings of the worst are in {folder}")


if __name__ == "__main__":
    sys.exit(guarded(main))
