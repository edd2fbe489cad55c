#!/usr/bin/env python
"""Retrieval figures of a trained CLIP, or of published weights, on image-text shards.

python jobs/clip_evaluate.py --run runs/b32 --val-shards 's3://bucket/coco/{00000..00004}.tar' --workers 8
python jobs/clip_evaluate.py --model ViT-B-32 --weights laion2b_s34b_b79k --val-shards shards/
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models")]

from lumiray.command import guarded, read_options


def main() -> None:
    """Read the command line, evaluate, print the figures."""
    from lumiray.train.score_pairs import ScoreOptions, score

    found = score("clip", read_options(ScoreOptions, sys.argv[1:], str(__doc__)))
    for name, value in found["metrics"].items():
        print(f"{name:28s} {value:.4f}")
    print(f"written to {found['written']}")


if __name__ == "__main__":
    sys.exit(guarded(main))
