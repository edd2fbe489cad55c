#!/usr/bin/env python
"""Figures of a trained GLIP, or of published weights, on pictures with boxes: COCO, LVIS, phrases, several sets.

python jobs/glip_evaluate.py --run runs/glip --val-shards held-out/ --workers 8

python jobs/glip_evaluate.py --weights glip_tiny.pth --vocabulary vocab.txt --val-shards pets=pets/ masks=masks/

python jobs/glip_evaluate.py --run runs/glip --measures lvis --class-pictures lvis_v1_train.json --val-shards lvis/
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models")]

from lumiray.command import guarded
from lumiray.evaluate.box_options import BoxOptions
from lumiray.evaluate.evaluate_options import read_command_of


def main() -> None:
    """Read the command line, evaluate, print the figures."""
    command = read_command_of("glip", BoxOptions, sys.argv[1:], str(__doc__))
    from lumiray.train.score_boxes import score_boxes  # after the line was read: help imports less

    figures, written = score_boxes(command)
    for name, value in figures.items():
        print(f"{name:28s} {value:.4f}")
    print(f"written to {written}")


if __name__ == "__main__":
    sys.exit(guarded(main))
