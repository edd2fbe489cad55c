"""A small network learns to brighten photographs, and is measured on photographs that it never saw.

    python examples/low_light/demo.py [OUTPUT]

The pictures are real and their darkness is computed (see pairs.py).  What the network has to beat is the best single
curve, gain and gamma, fitted on the training photographs: it knows the exposure and cannot take away noise.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from curve import fitted
from pairs import pairs, write_pairs
from restoration import decibels, networks, train, write_grid
from running import ROOT, say
from split_photographs import PHOTOGRAPHS

SHOWN = (0, 3)  # rows of the held-out part that are in the picture


def main(arguments: list[str]) -> None:
    """From nothing to the table and the picture."""
    begin = time.time()
    output = Path(arguments[0]) if arguments else ROOT / "demo" / "low_light"
    run = train("cidnet", HERE / "low_light.yaml", output, write_pairs)
    curve = fitted(pairs("train"))
    names, dark, bright = zip(*pairs("held-out"))
    results = {"input": list(dark), "best gain and gamma": [curve.of(one) for one in dark]}
    results |= {name: [system.restore(one) for one in dark] for name, system in networks("cidnet", run).items()}
    figures = {name: decibels(pictures, bright) for name, pictures in results.items()}
    own = json.loads((run / "status.json").read_text())["metrics"]
    write_grid(output / "grid.png", [dark, results["trained"], bright], SHOWN)
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
