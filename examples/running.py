"""What every example does: say a line, and run a job of this project as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models")]


def say(text: str) -> None:
    """One line, with the time."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def job(name: str, *options: str) -> None:
    """Run a job of this project on a cluster of its own; its output goes to the terminal, its failure ends this."""
    say("$ " + " ".join(["python", f"jobs/{name}", *options]))
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a cluster of this process, on this machine
    done = subprocess.run([sys.executable, str(ROOT / "jobs" / name), *options], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)
