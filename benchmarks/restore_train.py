"""cidnet's training pictures/s in the job against a bare PyTorch loop, both on random crops of full-size pictures.

    python benchmarks/restore_train.py [--rounds 3] [--steps 12] [--crop 128] [--batch 8]

The bare loop has the same networks, losses, optimizer, crops and flips, and a DataLoader of as many processes as the
machine has cores, which read the same pairs as files (JPEG, 1,024 x 768) with Pillow.  The job reads them from shards.
The two alternate; the first steps are left out.  `ratio_plain` is ours over the bare loop's with the
published widths (at least 1.1 is the target), `ratio_small` with a network so small that reading is the limit.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tarfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np

from job import ROOT, finish, run_job
from photographs import crop, photographs

PAIRS = ROOT / ".cache" / "benchmarks" / "pairs"
ROWS, SIZE, SHARD = 256, (1024, 768), "00000.tar"
WIDTHS = {
    "plain": ((36, 36, 72, 144), (1, 2, 4, 8)),
    "small": ((4, 4, 8, 8), (1, 2, 2, 4)),
}
WARM = 3  # steps that are left out


def write_pairs() -> None:
    """Dark and bright photographs as files, and the same bytes in a shard; nothing if they are there."""
    if (PAIRS / SHARD).exists():
        return
    (PAIRS / "files").mkdir(parents=True, exist_ok=True)
    pictures, draw = photographs(), np.random.default_rng(0)
    partial = PAIRS / "partial"
    with tarfile.open(partial, "w") as archive:
        for row in range(ROWS):
            bright = crop(pictures[row % len(pictures)][1], SIZE, draw)
            for part, picture in (("lq", bright.point(lambda level: level // 4)), ("gt", bright)):
                encoded = io.BytesIO()
                picture.save(encoded, "JPEG", quality=90)
                name = f"{row:05d}.{part}.jpg"
                (PAIRS / "files" / name).write_bytes(encoded.getvalue())
                member = tarfile.TarInfo(name)
                member.size = len(encoded.getvalue())
                archive.addfile(member, io.BytesIO(encoded.getvalue()))
    partial.rename(PAIRS / SHARD)


class Files:
    """The bare loop's data set: one random crop of one pair, uint8 (3, S, S) each."""

    def __init__(self, side: int) -> None:
        self._side = side

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        from PIL import Image

        halves = [np.asarray(Image.open(PAIRS / "files" / f"{row:05d}.{part}.jpg")) for part in ("lq", "gt")]
        top, left = (int(np.random.randint(edge - self._side + 1)) for edge in halves[0].shape[:2])
        cut = [one[top : top + self._side, left : left + self._side] for one in halves]
        if np.random.rand() < 0.5:
            cut = [one[:, ::-1] for one in cut]
        return tuple(np.ascontiguousarray(one.transpose(2, 0, 1)) for one in cut)  # type: ignore[return-value]


def bare_rate(kind: str, side: int, batch: int, steps: int) -> float:
    """Pictures/s of the bare loop, in a process of its own."""
    command = [sys.executable, __file__, "--bare", kind, str(side), str(batch), str(steps)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def bare(kind: str, side: int, batch: int, steps: int) -> None:
    """The bare loop; prints pictures/s."""
    import time

    sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models")]
    import torch
    from torch.utils.data import DataLoader, RandomSampler

    from lumizoo.cidnet.config import CidnetConfig
    from lumizoo.cidnet.losses import pair_terms
    from lumizoo.cidnet.network import CIDNet

    channels, heads = WIDTHS[kind]
    config = CidnetConfig(channels=channels, heads=heads, perceptual_weight=0.0)  # type: ignore[arg-type]
    network = CIDNet(config.channels, config.heads, config.norm)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    cores = os.cpu_count() or 1
    data = Files(side)
    sampler = RandomSampler(data, replacement=True, num_samples=batch * (steps + WARM))  # type: ignore[arg-type]
    loader = DataLoader(data, batch, sampler=sampler, num_workers=cores)  # type: ignore[arg-type]
    times = []
    begin = time.perf_counter()
    for dark, bright in loader:
        dark, bright = dark.float() / 255, bright.float() / 255
        terms = pair_terms(config, network.trans, network(dark), bright, None)
        optimizer.zero_grad()
        sum(term.weight * term.sum for term in terms.values()).backward()  # type: ignore[union-attr]
        optimizer.step()
        now = time.perf_counter()
        times.append(now - begin)
        begin = now
    print(batch / statistics.mean(times[WARM:]))


def our_rate(kind: str, side: int, batch: int, steps: int) -> float:
    """Pictures/s of the job."""
    channels, heads = WIDTHS[kind]
    options = [
        *("cidnet", "--shards", str(PAIRS / SHARD), "--crop-size", str(side), "--perceptual-weight", "0"),
        *("--channels", *map(str, channels), "--heads", *map(str, heads), "--warmup", "1", "--log.every", "1"),
        *("--global-batch-size", str(batch), "--steps", str(steps + WARM), "--checkpoint.every", "1000000"),
    ]
    rows = run_job("restore-train", options, "restore_finetune.py").rows[WARM:]
    return batch / statistics.mean(row["step_s"] for row in rows)


def compare(kind: str, side: int, batch: int, steps: int, rounds: int) -> dict[str, list[float]]:
    """Rates of both sides over the rounds, in turns."""
    rates: dict[str, list[float]] = {"ours": [], "bare": []}
    for number in range(rounds):
        for one in ("bare", "ours") if number % 2 == 0 else ("ours", "bare"):
            measured = our_rate if one == "ours" else bare_rate
            rates[one].append(measured(kind, side, batch, steps))
        print(f"{kind}: {rates['ours'][-1]:.2f} against {rates['bare'][-1]:.2f} pictures/s", flush=True)
    return rates


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--small-steps", type=int, default=100)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    given = parser.parse_args(arguments)
    write_pairs()
    result: dict[str, object] = {"benchmark": "restore_train", "crop": given.crop, "batch": given.batch}
    for kind, steps in (("plain", given.steps), ("small", given.small_steps)):
        rates = compare(kind, given.crop, given.batch, steps, given.rounds)
        ratios = [ours / bare for ours, bare in zip(rates["ours"], rates["bare"], strict=True)]
        result |= {
            f"ratio_{kind}": round(statistics.median(ratios), 3),
            f"ratios_{kind}": [round(one, 3) for one in ratios],
            f"pictures_per_s_{kind}": {side: [round(one, 2) for one in values] for side, values in rates.items()},
        }
    finish(result)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        bare(sys.argv[2], *(int(one) for one in sys.argv[3:]))
    else:
        main(sys.argv[1:])
