"""Try other settings of the demo, judged by Noto rows that training does not see: how demo.yaml was chosen.

    python examples/emoji/choose.py [--lr 2e-3 --crop-scale 0.6 1.0 ...]

Every fifth Noto emoji is held out.  The options are those of jobs/clip_pretrain.py and replace values of demo.yaml;
the last line is the recall on the held-out rows.  Twemoji is not looked at.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models"), str(HERE)]

from demo import job
from rows import write_rows

from lumiray.data.write import make_shards

EVERY = 5


def main(options: list[str]) -> None:
    """Split, train with the options, print the held-out recall."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        parts = {"-seen": lambda number: bool(number % EVERY), "-held-out": lambda number: not number % EVERY}
        for part, keep in parts.items():
            make_shards(str(write_rows(base / "rows", "noto", part, keep)), str(base / part), rows_per_shard=500)
        shards = ("--shards", str(base / "-seen"), "--val-shards", str(base / "-held-out"))
        job("clip_pretrain.py", "--config", str(HERE / "demo.yaml"), *shards, "--output", str(base / "run"), *options)
        metrics = json.loads((base / "run" / "status.json").read_text())["metrics"]
    figures = {name: round(value, 4) for name, value in metrics.items() if name.startswith("text_to_image")}
    print(json.dumps({"options": options, **figures}))


if __name__ == "__main__":
    main(sys.argv[1:])
