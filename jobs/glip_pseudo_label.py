#!/usr/bin/env python
"""Put boxes around the noun phrases of captions: image-text shards in, grounding shards for a student out.

python jobs/glip_pseudo_label.py --weights runs/teacher --shards cc3m/ --phrases-model en_core_web_sm --output pseudo/
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models")]

from lumiray.command import guarded


def main() -> None:
    """Read the command line, label what is not labelled yet."""
    from lumiray.evaluate.label_options import read_label_command

    command = read_label_command("glip", sys.argv[1:], str(__doc__))
    from lumiray.evaluate.label_shards import label_shards  # after the line was read: help imports less

    label_shards(command)


if __name__ == "__main__":
    sys.exit(guarded(main))
