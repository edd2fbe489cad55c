"""A small network learns to brighten photographs, and is measured on photographs that it never saw.

    python examples/low_light/demo.py [OUTPUT]

The pictures are real and their darkness is computed (see pairs.py).  What the network has to beat is the best single
curve, gain and gamma, fitted on the training photographs: it knows the exposure and cannot take away noise.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models"), str(HERE)]

from curve import fitted
from pairs import PHOTOGRAPHS, pairs, write_pairs

from lumiray.data.write import make_shards

SETTINGS = HERE / "low_light.yaml"
GRID_PICTURES, GRID_HEIGHT, BORDER = (0, 3), 200, 6  # rows of the held-out part that are shown; pixels


def say(text: str) -> None:
    """One line, with the time."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def train(output: Path) -> Path:
    """Make the shards unless they are there, and run the job as a user would; the folder of the run."""
    if not (output / "shards").exists():
        for part, folder in write_pairs(output / "pairs").items():
            make_shards(str(folder), str(output / "shards" / part), rows_per_shard=100)
    options = [
        *("cidnet", "--config", str(SETTINGS), "--shards", str(output / "shards" / "train")),
        *("--val-shards", str(output / "shards" / "held-out"), "--output", str(output / "run")),
    ]
    say("$ " + " ".join(["python", "jobs/restore_finetune.py", *options]))
    done = subprocess.run([sys.executable, str(ROOT / "jobs" / "restore_finetune.py"), *options], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return output / "run"


def networks(run: Path) -> dict[str, Any]:
    """The system with the weights that the run began with, and with those of its last checkpoint."""
    import torch

    import lumizoo
    from lumiray.settings_file import job_from, read_settings
    from lumiray.train.export import export_run

    job = job_from("cidnet", read_settings(str(run / "config.yaml")), str(run))
    weights = run.parent / "cidnet.safetensors"
    export_run(str(run), "safetensors", str(weights))
    torch.manual_seed(job.run.seed)
    first = lumizoo.load("cidnet", **vars(job.system))
    return {"step 0": first, "trained": lumizoo.load("cidnet", **vars(job.system) | {"weights": str(weights)})}


def decibels(results: list[np.ndarray], references: list[np.ndarray]) -> float:
    """Mean PSNR of pictures, as evaluation during training computes it."""
    import torch

    from lumiray.evaluate.fidelity import psnr

    def tensor(picture: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]

    return float(np.mean([float(psnr(tensor(one), tensor(other))) for one, other in zip(results, references)]))


def write_grid(file: Path, columns: list[list[np.ndarray]]) -> None:
    """Some held-out pictures, one to a row: input, result, truth."""
    rows = []
    for number in GRID_PICTURES:
        parts = [Image.fromarray(column[number]) for column in columns]
        size = (round(parts[0].width * GRID_HEIGHT / parts[0].height), GRID_HEIGHT)
        rows.append([np.asarray(one.resize(size, Image.Resampling.LANCZOS)) for one in parts])
    width = max(sum(one.shape[1] + BORDER for one in row) for row in rows) - BORDER
    sheet = np.full((len(rows) * (GRID_HEIGHT + BORDER) - BORDER, width, 3), 255, np.uint8)
    for top, row in zip(range(0, sheet.shape[0], GRID_HEIGHT + BORDER), rows):
        left = 0
        for one in row:
            sheet[top : top + GRID_HEIGHT, left : left + one.shape[1]] = one
            left += one.shape[1] + BORDER
    Image.fromarray(sheet).save(file, optimize=True)


def main(arguments: list[str]) -> None:
    """From nothing to the table and the picture."""
    begin = time.time()
    output = Path(arguments[0]) if arguments else ROOT / "demo" / "low_light"
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a cluster of this process, on this machine
    run = train(output)
    curve = fitted(pairs("train"))
    names, dark, bright = zip(*pairs("held-out"))
    results = {"input": list(dark), "best gain and gamma": [curve.of(one) for one in dark]}
    results |= {name: [system.restore(one) for one in dark] for name, system in networks(run).items()}
    figures = {name: decibels(pictures, list(bright)) for name, pictures in results.items()}
    own = json.loads((run / "status.json").read_text())["metrics"]
    write_grid(output / "grid.png", [list(dark), results["trained"], list(bright)])
    print(f"PSNR in dB of {len(names)} pairs from {len(PHOTOGRAPHS['held-out'])} held-out photographs, darkened by")
    print(
        f"computation; trained on {len(PHOTOGRAPHS['train'])} others, without the perceptual loss (no VGG-19 weights):"
    )
    for name, value in figures.items():
        print(f"  {name:22s}{value:6.2f}")
    print(f"The run's own last evaluation: {', '.join(f'{name} {value:.4g}' for name, value in own.items())}")
    above = figures["trained"] - figures["best gain and gamma"]
    say(
        f"{above:+.2f} dB above the best curve, {curve.gain:.2f} x ** {curve.gamma:.2f}, in {time.time() - begin:.0f} s"
    )
    print(f"Look at {output / 'grid.png'}: input, result, truth")


if __name__ == "__main__":
    main(sys.argv[1:])
