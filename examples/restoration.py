"""What the examples of restoration share: a run of the job on pictures, and results beside their truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from running import job

from lumiray.data.write import make_shards

GRID_HEIGHT, BORDER = 200, 6  # pixels


def train(slug: str, settings: Path, output: Path, write: Callable[[Path], dict[str, Path]]) -> Path:
    """Make the shards unless they are there, and run the job as a user would; the folder of the run.

    Args:
        settings: the YAML file of the run.
        write: writes the pictures below a folder, and gives the folders of `train` and `held-out`.
    """
    if not (output / "shards").exists():
        for part, folder in write(output / "pictures").items():
            make_shards(str(folder), str(output / "shards" / part), rows_per_shard=100, captions=False)
    options = [
        *(slug, "--config", str(settings), "--shards", str(output / "shards" / "train")),
        *("--val-shards", str(output / "shards" / "held-out"), "--output", str(output / "run")),
    ]
    job("restore_finetune.py", *options)
    return output / "run"


def networks(slug: str, run: Path) -> dict[str, Any]:
    """The system with the weights that the run began with, and with those of its last checkpoint."""
    import torch

    import lumizoo
    from lumiray.settings_file import job_from, read_settings
    from lumiray.train.export import export_run

    job = job_from(slug, read_settings(str(run / "config.yaml")), str(run))
    weights = run.parent / f"{slug}.safetensors"
    export_run(str(run), "safetensors", str(weights))
    torch.manual_seed(job.run.seed)
    first = lumizoo.load(slug, stage=job.run.stage, **vars(job.system))
    settings = vars(job.system) | {"weights": str(weights)}
    return {"step 0": first, "trained": lumizoo.load(slug, stage=job.run.stage, **settings)}


def decibels(results: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> float:
    """Mean PSNR of pictures, as evaluation during training computes it."""
    import torch

    from lumiray.evaluate.fidelity import psnr

    def tensor(picture: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]

    return float(np.mean([float(psnr(tensor(one), tensor(other))) for one, other in zip(results, references)]))


def write_grid(file: Path, columns: Sequence[Sequence[np.ndarray]], shown: Sequence[int]) -> None:
    """Some pictures of every column side by side, one row for each number in `shown`."""
    rows = []
    for number in shown:
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
