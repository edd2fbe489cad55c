#!/usr/bin/env python
"""Search over the settings of any system's training, with the trainer that its job uses.

python jobs/search.py cidnet --shards pairs/ --val-shards held-out/ --perceptual-weight 0 --steps 1000 \
    --evaluate.every 100 --metric psnr --trials 64 --scheduler asha --output studies/cidnet
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models")]

from lumiray.command import guarded, named_system, parse
from lumiray.tune.options import SearchOptions


def main() -> None:
    """Read the command line, run the study to its end, print what it found."""
    slug = named_system(sys.argv[1:], str(__doc__), {}, SearchOptions)
    parsed = parse(slug, sys.argv[2:], str(__doc__), SearchOptions)
    from lumiray.tune.search import search  # after the line was read: help imports less
    from lumiray.tune.summary import shown

    search(parsed.job, parsed.extra)
    print(shown(str(parsed.job.run.output), parsed.extra.storage))


if __name__ == "__main__":
    sys.exit(guarded(main))
