"""Peak memory and time of the softmax contrast over one rank's batch: dense against tiled.

    python benchmarks/contrastive_memory.py [--batches 4096,8192,16384,32768] [--tile 2048] [--width 512]

`ratio_16k_32k` is the tiled form's peak at 32k over that at 16k: at most 2.2 is the target (linear growth gives 2,
quadratic 4).  Each row is one forward and backward of `softmax_contrast` on random normalised features that take
gradient, in a fresh process.  Memory is what the process holds at its highest above what it held after imports and a
warm-up at a tiny batch: features, their gradients and all that the loss needs besides.  On the CPU it is the
kernel's high-water mark of the resident set, so what the allocator keeps counts; on a GPU it is
`torch.cuda.max_memory_allocated`.  Both forms see the same features: losses and gradients are compared at every
batch where both run.  The dense form runs up to `--dense-to`; beyond, its peak is a quadratic through the two largest
measured ones, and its time grows by the square, both marked `extrapolated`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from job import ROOT, finish

sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models")]

DENSE, TILED = "dense", "tiled"
WARM_UP_BATCH = 256
REPEAT_FOR_S = 2.0  # small batches are timed again, as long as all evaluations together take less
TOLERANCE = 1e-4  # of losses and gradients, relative to the largest value
MEBI = float(1 << 20)

Row = dict[str, Any]


class Memory:
    """Bytes of this process (or of its GPU allocator) above a baseline that is taken on construction."""

    def __init__(self, device: str) -> None:
        import torch

        self._device = device
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self._baseline = torch.cuda.memory_allocated()
            return
        with suppress(OSError):  # else the mark may be one left by imports: small peaks then look larger
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark becomes the present size
        self._baseline = _resident("VmRSS")

    def peak(self) -> int:
        """The highest so far, above the baseline."""
        import torch

        now = torch.cuda.max_memory_allocated() if self._device == "cuda" else _resident("VmHWM")
        return now - self._baseline


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


@dataclass(frozen=True)
class Evaluation:
    """One forward and backward: mean loss over rows, gradients by name, and what the two passes took."""

    loss: float
    gradients: dict[str, np.ndarray]
    seconds: float
    cpu_seconds: float  # of all threads: what is left to compare on a machine that is not quiet


def evaluate(batch: int, width: int, tile: int, device: str) -> Evaluation:
    """Forward and backward of the softmax contrast on features that follow from the batch's size."""
    import torch

    from lumizoo.blocks.contrast import softmax_contrast

    draw = torch.Generator().manual_seed(batch)
    image, text = (
        torch.nn.functional.normalize(torch.randn(batch, width, generator=draw)).to(device).requires_grad_()
        for _ in range(2)
    )
    scale = torch.tensor([1 / 0.07], device=device, requires_grad=True)  # where CLIP's scale starts
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    begin, cpu_begin = time.perf_counter(), time.process_time()
    loss = softmax_contrast(image, text, scale, tile=tile) / batch
    loss.backward()
    wait()
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
    named = {"image": image.grad, "text": text.grad, "scale": scale.grad}
    gradients = {name: value.cpu().numpy() for name, value in named.items() if value is not None}
    return Evaluation(loss.item(), gradients, seconds, cpu_seconds)


def measure(batch: int, width: int, tile: int, device: str, gradients_to: Path | None = None) -> Row:
    """Peak of one evaluation in this process, and its time (the median if there is time for several).

    Args:
        tile: side of a tile, -1 for the dense form, 0 for the automatic choice.
        gradients_to: `.npz` file for the gradients, written after the peak was read.
    """
    evaluate(min(batch, WARM_UP_BATCH), width, min(tile, WARM_UP_BATCH // 2), device)
    memory = Memory(device)
    done = [evaluate(batch, width, tile, device)]
    peak = memory.peak()
    if gradients_to is not None:
        np.savez(gradients_to, **done[0].gradients)
    while len(done) < 5 and sum(one.seconds for one in done) * (1 + 1 / len(done)) < REPEAT_FOR_S:
        done.append(evaluate(batch, width, tile, device))
    return {
        "batch": batch,
        "peak_mib": round(peak / MEBI, 1),
        "seconds": round(statistics.median(one.seconds for one in done), 6),
        "cpu_seconds": round(statistics.median(one.cpu_seconds for one in done), 6),
        "loss": done[0].loss,
    }


def in_fresh_process(batch: int, width: int, tile: int, device: str, gradients_to: Path) -> Row:
    """`measure` in a process of its own; ends the benchmark if it fails."""
    command = [sys.executable, __file__, "--one", str(tile), "--batches", str(batch), "--width", str(width)]
    command += ["--device", device, "--gradients-to", str(gradients_to)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def extrapolated(rows: list[Row], batch: int) -> Row:
    """The dense form at a batch that was not run, from measured rows: peak a N^2 + b N, time by the square."""
    largest = rows[-1]
    times = batch / largest["batch"]
    peak = largest["peak_mib"] * times**2
    if len(rows) > 1:
        (n, at_n), (m, at_m) = ((row["batch"], row["peak_mib"]) for row in rows[-2:])
        square = (at_m / m - at_n / n) / (m - n)
        peak = square * batch**2 + (at_m / m - square * m) * batch
    return {
        "batch": batch,
        "peak_mib": round(peak, 1),
        "seconds": round(largest["seconds"] * times**2, 6),
        "cpu_seconds": round(largest["cpu_seconds"] * times**2, 6),
        "extrapolated": True,
    }


def largest_difference(one: Path, other: Path) -> float:
    """Largest difference of two files' gradients, each relative to the largest value of its tensor."""
    with np.load(one) as left, np.load(other) as right:
        return max(float(np.abs(left[name] - right[name]).max() / np.abs(right[name]).max()) for name in right)


def compare(batches: list[int], dense_to: int, width: int, tile: int, device: str) -> tuple[list[Row], list[Row], Row]:
    """Rows of both forms in the order of batches, printed as they come, and how far the two agree.

    Returns:
        Dense rows, tiled rows, and the largest relative errors of loss and gradients.
    """
    from lumizoo.blocks.contrast import AUTO_TILE, NEVER_TILE, tile_for

    rows: dict[str, list[Row]] = {DENSE: [], TILED: []}
    errors = {"loss": 0.0, "gradient": 0.0}
    print(f"{'batch':>8s} {'form':8s} {'peak MiB':>10s} {'seconds':>9s} {'CPU s':>8s}  chosen by tile=0")
    with tempfile.TemporaryDirectory() as folder:
        files = {form: Path(folder) / f"{form}.npz" for form in rows}
        for batch in sorted(batches):
            measured = [row for row in rows[DENSE] if "extrapolated" not in row]
            if batch <= dense_to or not measured:
                rows[DENSE].append(in_fresh_process(batch, width, NEVER_TILE, device, files[DENSE]))
            else:
                rows[DENSE].append(extrapolated(measured, batch))
            rows[TILED].append(in_fresh_process(batch, width, tile, device, files[TILED]))
            dense, tiled = rows[DENSE][-1], rows[TILED][-1]
            if "extrapolated" not in dense:
                errors["loss"] = max(errors["loss"], abs(tiled["loss"] - dense["loss"]) / abs(dense["loss"]))
                errors["gradient"] = max(errors["gradient"], largest_difference(files[TILED], files[DENSE]))
            chosen = TILED if tile_for(AUTO_TILE, batch, batch) else DENSE
            for form, row in ((DENSE, dense), (TILED, tiled)):
                notes = [*(["<-"] if form == chosen else []), *(["extrapolated"] if "extrapolated" in row else [])]
                numbers = f"{row['peak_mib']:10.1f} {row['seconds']:9.2f} {row['cpu_seconds']:8.2f}"
                print(f"{batch:8d} {form:8s} {numbers}  {' '.join(notes)}".rstrip(), flush=True)
    return rows[DENSE], rows[TILED], errors


def summary(dense: list[Row], tiled: list[Row], errors: Row) -> Row:
    """The benchmark's last line."""
    peaks = {row["batch"]: row["peak_mib"] for row in tiled}
    both = [(row, other) for row, other in zip(dense, tiled, strict=True) if "extrapolated" not in row]
    costs = [other["seconds"] / row["seconds"] for row, other in both]
    return {
        "benchmark": "contrastive_memory",
        "ratio_16k_32k": round(peaks[32768] / peaks[16384], 3) if {16384, 32768} <= peaks.keys() else None,
        "ratio_time": round(costs[-1], 3) if costs else None,  # tiled over dense, at the largest batch of both
        "largest_relative_error": errors,
        DENSE: dense,
        TILED: tiled,
    }


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--batches", default="4096,8192,16384,32768")
    parser.add_argument("--dense-to", type=int, default=16384)
    parser.add_argument("--width", type=int, default=512, help="of the features")
    parser.add_argument("--tile", type=int, default=2048)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--gradients-to", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    batches = [int(one) for one in given.batches.split(",")]
    if given.one is not None:
        print(json.dumps(measure(batches[0], given.width, given.one, given.device, given.gradients_to)))
        return
    import torch

    device = given.device if given.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"features of {given.width}, tiles of {given.tile}, {where}", flush=True)
    dense, tiled, errors = compare(batches, given.dense_to, given.width, given.tile, device)
    print(f"largest relative error of the tiled form: loss {errors['loss']:.1e}, gradient {errors['gradient']:.1e}")
    if max(errors.values()) > TOLERANCE:
        sys.exit(f"the two forms differ by more than {TOLERANCE}: their peaks are not comparable")
    settings = {"device": where, "width": given.width, "tile": given.tile}
    finish(summary(dense, tiled, errors) | settings)


if __name__ == "__main__":
    main(sys.argv[1:])
