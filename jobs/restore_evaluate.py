#!/usr/bin/env python
"""Figures of a trained restoration system on pairs, picture by picture, with the worst ones drawn.

python jobs/restore_evaluate.py cidnet --run runs/cidnet --val-shards held-out/ --workers 2
python jobs/restore_evaluate.py cidnet --weights LOLv1.pth --val-shards 's3://bucket/eval15' --output figures/
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models")]

from lumiray.command import guarded
from lumiray.evaluate.evaluate_options import EvaluateOptions, read_evaluate_command


def main() -> None:
    """Read the command line, evaluate, print the figures."""
    command = read_evaluate_command(sys.argv[1:], str(__doc__))
    from lumiray.train.score_pictures import evaluate_pictures  # after the line was read: help imports less

    figures, folder = evaluate_pictures(command, further_measures(command.options))
    for name, value in figures.items():
        print(f"{name:28s} {value:.4f}")
    print(f"pictures.csv, summary.md and drawings of the worst are in {folder}")


def further_measures(options: EvaluateOptions) -> dict[str, Any]:
    """LPIPS, if the files of its weights are given."""
    if options.lpips_vgg is None or options.lpips_linear is None:
        return {}
    from lumizoo.blocks.lpips import lpips_of_levels
    from lumizoo.blocks.published import whole_path

    given = {"lpips-vgg": options.lpips_vgg, "lpips-linear": options.lpips_linear}
    files = [whole_path(path, option) for option, path in given.items()]
    return {"lpips": partial(lpips_of_levels, *files, tuple(given))}


if __name__ == "__main__":
    sys.exit(guarded(main))
