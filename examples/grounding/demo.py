"""A small GLIP learns names of emoji on photographs, and finds another artist's emoji on photographs it never saw.

    python examples/grounding/demo.py [OUTPUT]

A quarter of an hour on two cores.  The names that are in no scene of training have a figure of their own, though what
each of their words means was there to be learnt: they are looked for among all names, those of training, too.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import numpy as np
from compose import MOST, NAMES, NEW_NAMES, PARTS, SIDE, make_scenes, training_options
from PIL import Image
from running import ROOT, job, say

from lumiray.evaluate.boxes_drawing import with_boxes
from lumiray.evaluate.detection import coco_stats, dataset, results
from lumiray.evaluate.run_weights import ready_system, settings_of_run

ASKED = {"held-out": [*NAMES], "new-names": [*NAMES, *NEW_NAMES]}  # names that are looked for, by part
SHOWN, SHOWN_FROM = 4, 0.4  # scenes of each part in the picture; least score of a box there
ENLARGED = 2


def trained(run: Path) -> Any:
    """The system with the weights of the run's last checkpoint."""
    import torch

    config = replace(settings_of_run("glip", str(run)), weights=str(run))
    return ready_system("glip", config, torch.device("cpu"))


def looked_at(system: Any, part: Path, names: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What is in a part's pictures, and what the system finds of some names, both in COCO's form.

    Figures are means over the names that are there; the others can only be mistaken for them.
    """
    told = json.loads((part / "boxes.json").read_text())
    labels = {one["id"]: names.index(one["name"]) + 1 for one in told["categories"]}
    pictures = []
    for image in told["images"]:
        found = system.detect(Image.open(part / image["file_name"]), names, threshold=0.0)
        own = [one for one in told["annotations"] if one["image_id"] == image["id"]]
        corners = [(x, y, x + width - 1, y + height - 1) for x, y, width, height in (one["bbox"] for one in own)]
        pictures.append(
            {
                "boxes": found.boxes.numpy(),
                "scores": found.scores.numpy(),
                "labels": found.labels.numpy(),
                "true_boxes": np.array(corners),
                "true_labels": np.array([labels[one["category_id"]] for one in own]),
            }
        )
    return dataset(pictures), [one for number, picture in enumerate(pictures) for one in results(number, picture)]


def write_grid(file: Path, system: Any, parts: dict[str, Path]) -> None:
    """The first scenes of every part, a row each, with what was found in them."""
    side = SIDE * ENLARGED
    sheet = Image.new("RGB", (SHOWN * side, len(parts) * side))
    for row, (name, part) in enumerate(parts.items()):
        for column in range(SHOWN):
            picture = Image.open(part / f"{column:05d}.png").resize((side, side), Image.Resampling.BICUBIC)
            found = system.detect(picture, ASKED[name], threshold=SHOWN_FROM, limit=MOST)
            told = (found.boxes.tolist(), found.labels.tolist(), found.phrases, found.scores.tolist())
            sheet.paste(with_boxes(np.asarray(picture), *told), (column * side, row * side))
    sheet.save(file, optimize=True)


def main(arguments: list[str]) -> None:
    """From nothing to the figures and the picture."""
    begin = time.time()
    output = Path(arguments[0]) if arguments else ROOT / "demo" / "grounding"
    say(f"scenes: {', '.join(f'{one.count} {name}' for name, one in PARTS.items())}")
    shards = make_scenes(output)
    job("glip_pretrain.py", *training_options(output, shards), "--output", str(output / "run"))
    system = trained(output / "run")
    parts = {name: output / "pictures" / name for name in ASKED}
    for name, part in parts.items():
        stats = coco_stats(*looked_at(system, part, ASKED[name]))
        say(f"{name}: AP50 {100 * stats[1]:.1f}, AP {100 * stats[0]:.1f} among {len(ASKED[name])} names")
    write_grid(output / "grid.png", system, parts)
    say(f"{time.time() - begin:.0f} s in all")
    print(f"Look at {output / 'grid.png'}: a row of names that were trained on, a row of names that were not")


if __name__ == "__main__":
    main(sys.argv[1:])
