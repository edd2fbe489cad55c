"""The whole platform on one screen: shards, training, evaluation on an artist that training never saw, report.

    python examples/emoji/demo.py [OUTPUT]          (or: make demo)

A small CLIP learns from 1,911 Noto emoji and their names.  It is then asked for Twemoji pictures by name:
another artist's drawings, all 1,911 of them as candidates.  Everything that was chosen for it was chosen on Noto
rows held out of training; Twemoji is looked at once, with the last checkpoint.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from rows import ARTISTS, emojis, pictures, write_rows
from running import ROOT, job, say

from lumiray.data.write import make_shards
from lumiray.evaluate.report import SHEET, write_report
from lumiray.evaluate.sheet import Query, query_sheet

QUERIES = (
    *("red apple", "octopus", "violin", "rocket", "snowman", "guitar", "pizza slice", "elephant", "japan flag"),
    *("alarm clock", "bicycle", "cactus"),
)


def shards_of(output: Path, artist: str) -> Path:
    """The artist's pictures as WebDataset shards."""
    shards = output / "shards" / artist
    if not (shards / "manifest.json").exists():
        make_shards(str(write_rows(output / "rows", artist)), str(shards), rows_per_shard=500)
    return shards


def chosen_queries(names: list[str], ranks: list[int]) -> list[int]:
    """Rows for the sheet: familiar things, wherever they were ranked; the middle ones if a name is missing."""
    wanted = [names.index(name) for name in QUERIES if name in names]
    rest = sorted(range(len(names)), key=lambda row: ranks[row])[len(names) // 2 :]
    return (wanted + rest)[: len(QUERIES)]


def write_sheet(run: Path, best: dict[str, list]) -> None:
    """Queries with the five Twemoji pictures that the model likes best."""
    import numpy as np

    drawn = [np.asarray(picture) for _, picture in pictures("twemoji")]
    names = [one.name for one in emojis()]
    queries = []
    for row in chosen_queries(names, best["rank"]):
        found = best["best"][row]
        right = found.index(row) if row in found else None
        queries.append(Query(names[row], [drawn[one] for one in found], right, best["rank"][row]))
    (run / SHEET).write_bytes(query_sheet(queries))


def main(arguments: list[str]) -> None:
    """From nothing to the report."""
    begin = time.time()
    output = Path(arguments[0]) if arguments else ROOT / "demo"
    say(f"shards of both artists' {len(emojis())} emoji in {output / 'shards'}")
    noto, twemoji = (shards_of(output, artist) for artist in ARTISTS)
    run = output / "run"
    say("training on Noto; recall during training is on Noto, too")
    job(
        "clip_pretrain.py",
        *("--config", str(HERE / "demo.yaml"), "--shards", str(noto), "--val-shards", str(noto)),
        *("--output", str(run)),
    )
    say("evaluation on Twemoji, which training never saw: the last checkpoint, scored once")
    figures = run / "scores" / "twemoji.json"
    job("clip_evaluate.py", "--run", str(run), "--val-shards", str(twemoji), "--best", "5", "--output", str(figures))
    scored = json.loads(figures.read_text())
    write_sheet(run, scored["best"])
    report = write_report(str(run))
    metrics = scored["metrics"]
    say(
        f"text to picture on the unseen artist: R@1 {metrics['text_to_image_R@1']:.1%}, "
        f"R@10 {metrics['text_to_image_R@10']:.1%} (chance {10 / len(emojis()):.1%}); "
        f"{time.time() - begin:.0f} s in all"
    )
    print(f"Look at {report}")


if __name__ == "__main__":
    main(sys.argv[1:])
