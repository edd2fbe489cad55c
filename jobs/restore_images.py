#!/usr/bin/env python
"""Restore every picture of a folder by a trained system: published weights, or a run of ours.

python jobs/restore_images.py cidnet --weights LOLv1.pth --input photos/ --output enhanced/
python jobs/restore_images.py cidnet --weights runs/cidnet --input photos/ --output enhanced/ --tile 1024 --format webp
python jobs/restore_images.py cidnet --weights s3://bucket/a.pth --input s3://bucket/in --output s3://bucket/out
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models")]

from lumiray.command import guarded


def main() -> None:
    """Read the command line, restore what is not restored yet."""
    from lumiray.evaluate.restore_options import read_restore_command

    command = read_restore_command(sys.argv[1:], str(__doc__))
    from lumiray.evaluate.restore_folder import restore_folder  # after the line was read: help imports less

    restore_folder(command)


if __name__ == "__main__":
    sys.exit(guarded(main))
