#!/usr/bin/env python
"""Restore every picture of a folder by a system that is fitted to each picture by itself, without training.

python jobs/restore_zero_shot.py zs-n2n --input noisy/ --output clean/
python jobs/restore_zero_shot.py zs-n2n --input s3://bucket/noisy --output s3://bucket/clean --steps 500
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models")]

from lumiray.command import guarded


def main() -> None:
    """Read the command line, restore what is not restored yet."""
    from lumiray.evaluate.fit_options import read_fit_command

    command = read_fit_command(sys.argv[1:], str(__doc__))
    from lumiray.evaluate.fit_folder import fit_folder  # after the line was read: help imports less

    fit_folder(command)


if __name__ == "__main__":
    sys.exit(guarded(main))
