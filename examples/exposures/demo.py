"""A small PairLIE learns from dark exposures alone, and is measured on pairs of photographs that it never saw.

    python examples/exposures/demo.py [OUTPUT]

The pictures are real and their exposures are computed (see scenes.py).  Nothing bright is in the training rows, so
the network cannot know how bright the photographs were; the curve that it stands beside was fitted on them.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "low_light")]

from curve import fitted
from pairs import pairs
from restoration import decibels, networks, train, write_grid
from running import ROOT, say
from scenes import COLOURED, write_scenes
from split_photographs import PHOTOGRAPHS

SHOWN = (0, 3)  # rows of the held-out part that are in the picture


def main(arguments: list[str]) -> None:
    """From nothing to the table and the picture."""
    begin = time.time()
    output = Path(arguments[0]) if arguments else ROOT / "demo" / "exposures"
    run = train("pairlie", HERE / "exposures.yaml", output, write_scenes)
    names, dark, bright = zip(*pairs("held-out"))
    found = networks("pairlie", run)
    results = {"input": list(dark)} | {name: [system.restore(one) for one in dark] for name, system in found.items()}
    figures = {name: decibels(pictures, bright) for name, pictures in results.items()}
    curve = fitted(pairs("train"))
    figures["curve fitted on bright pictures"] = decibels([curve.of(one) for one in dark], bright)
    own = json.loads((run / "status.json").read_text())["metrics"]
    parts = [found["trained"].decompose(one) for one in dark]
    layers = [[one[name] for one in parts] for name in ("illumination", "reflectance")]
    write_grid(output / "grid.png", [dark, *layers, results["trained"], bright], SHOWN)
    print(f"PSNR in dB of {len(names)} pairs from {len(PHOTOGRAPHS['held-out'])} held-out photographs, darkened by")
    print(f"computation; trained on computed exposures of {len(COLOURED)} others, none of them bright:")
    for name, value in figures.items():
        print(f"  {name:34s}{value:6.2f}")
    print(f"The run's own last evaluation: {', '.join(f'{name} {value:.4g}' for name, value in own.items())}")
    say(f"{figures['trained'] - figures['input']:+.2f} dB above the input, in {time.time() - begin:.0f} s")
    print(f"Look at {output / 'grid.png'}: input, illumination, reflectance, result, truth")


if __name__ == "__main__":
    main(sys.argv[1:])
