"""CodeFormer's first stage learns a codebook of photographs, and draws photographs that it never saw with its codes.

python examples/codebook/demo.py [OUTPUT]
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from restoration import ROOT, decibels, networks, say, train, write_grid
from split_photographs import PHOTOGRAPHS, TILE, photograph, squares

SIDE = 64  # of what the network sees, as the settings say
SHOWN = (1, 5, 9, 16)  # held-out squares that are in the picture


def write_squares(output: Path) -> dict[str, Path]:
    """Write the squares of all photographs as PNG; the folder of each part."""
    folders = {}
    for part, names in PHOTOGRAPHS.items():
        folders[part] = output / part
        folders[part].mkdir(parents=True, exist_ok=True)
        for name in names:
            for number, square in enumerate(squares(photograph(name))):
                Image.fromarray(square).save(folders[part] / f"{name}-{number:02d}.png")
    return folders


def held_out() -> list[np.ndarray]:
    """Centres of the held-out squares, as evaluation cuts them: uint8 RGB `(SIDE, SIDE, 3)`."""
    edge = (TILE - SIDE) // 2
    return [
        square[edge : edge + SIDE, edge : edge + SIDE]
        for name in PHOTOGRAPHS["held-out"]
        for square in squares(photograph(name))
    ]


def main(arguments: list[str]) -> None:
    """From nothing to the table and the picture."""
    begin = time.time()
    output = Path(arguments[0]) if arguments else ROOT / "demo" / "codebook"
    run = train("codeformer", HERE / "codebook.yaml", output, write_squares)
    pictures = held_out()
    results = {
        "one colour": [np.broadcast_to(one.mean((0, 1)).round().astype(np.uint8), one.shape) for one in pictures]
    }
    results |= {name: [system.restore(one) for one in pictures] for name, system in networks("codeformer", run).items()}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    usage = [row["perplexity"] for row in rows if row["kind"] == "train"]
    own = json.loads((run / "status.json").read_text())["metrics"]
    write_grid(output / "grid.png", [pictures, results["step 0"], results["trained"]], SHOWN)
    print(f"PSNR in dB of {len(pictures)} squares of {len(PHOTOGRAPHS['held-out'])} photographs that it never saw:")
    for name, restored in results.items():
        print(f"  {name:12s}{decibels(restored, pictures):6.2f}")
    print(f"Codes in use (perplexity of a batch, of 256): {usage[0]:.0f} at first, {usage[-1]:.0f} at the end")
    print(f"The run's own last evaluation: {', '.join(f'{name} {value:.4g}' for name, value in own.items())}")
    say(f"done in {time.time() - begin:.0f} s")
    print(f"Look at {output / 'grid.png'}: truth, step 0, result")


if __name__ == "__main__":
    main(sys.argv[1:])
