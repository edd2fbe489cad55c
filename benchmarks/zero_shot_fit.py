"""Pictures per minute that zs-n2n is fitted to on all cores, against the plain loop that takes one after the other.

    python benchmarks/zero_shot_fit.py [--side 256] [--steps 300] [--pictures 6] [--rounds 3]

The plain loop is the method as its authors write it: one network, one picture at a time, torch's own threads on all
cores, the four passes of a step one by one.  Ours are processes of one core each, as `jobs/restore_zero_shot.py` has
them.  Both take the same noisy photographs (sigma 25) for the same steps from weights of the same law, and alternate;
imports and the start of processes are left out.  `ratio_plain` is the median of our rate over the plain one (at least
1.5 is the target), `psnr_difference_db` the mean PSNR of our results less that of the plain ones.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from job import ROOT, finish
from photographs import photographs

sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models")]

import numpy as np
import torch
from torch import Tensor, nn

SIGMA = 25 / 255


def pictures_of(count: int, side: int) -> tuple[Tensor, Tensor]:
    """Clean and noisy pictures, fp32 (N, 3, S, S); the clean ones in [0, 1], noise is not clipped."""
    draw = np.random.default_rng(0)
    found = []
    for number in range(count):
        _, picture = photographs()[number % 3]
        left, top = (int(draw.integers(edge - side + 1)) for edge in picture.size)
        found.append(np.asarray(picture.crop((left, top, left + side, top + side)), np.float32) / 255)
    clean = torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()
    return clean, clean + SIGMA * torch.from_numpy(draw.standard_normal(clean.shape).astype(np.float32))


def plain_fit(noisy: Tensor, steps: int) -> Tensor:
    """The method in its plain form on one picture (1, 3, S, S); the result in [0, 1]."""
    network = nn.Sequential(
        *(nn.Conv2d(3, 48, 3, padding=1), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(48, 48, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(48, 3, 1)),
    )
    first = torch.tensor([[[[0, 0.5], [0.5, 0]]]]).repeat(3, 1, 1, 1)
    second = torch.tensor([[[[0.5, 0], [0, 0.5]]]]).repeat(3, 1, 1, 1)

    def halved(picture: Tensor) -> tuple[Tensor, Tensor]:
        one, other = (nn.functional.conv2d(picture, kernel, stride=2, groups=3) for kernel in (first, second))
        return one, other

    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1500, 0.5)
    distance = nn.MSELoss()
    for _ in range(steps):
        one, other = halved(noisy)
        predicted_one, predicted_other = one - network(one), other - network(other)
        residual = (distance(one, predicted_other) + distance(other, predicted_one)) / 2
        denoised_one, denoised_other = halved(noisy - network(noisy))
        consistency = (distance(predicted_one, denoised_one) + distance(predicted_other, denoised_other)) / 2
        optimizer.zero_grad()
        (residual + consistency).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return (noisy - network(noisy)).clamp(0, 1)


def our_fit(task: tuple[np.ndarray, int]) -> np.ndarray:
    """One picture (3, S, S) in a process of one core."""
    from lumizoo.zs_n2n.config import ZsN2nConfig
    from lumizoo.zs_n2n.fit import fit

    picture, steps = task
    return fit(torch.from_numpy(picture), ZsN2nConfig(steps=steps)).restored.numpy()


def one_thread() -> None:
    """A process of the pool."""
    torch.set_num_threads(1)


def mean_psnr(results: Tensor, clean: Tensor) -> float:
    """Mean over pictures, dB, peak 1."""
    return float((-10 * (results - clean).square().mean((1, 2, 3)).log10()).mean())


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--pictures", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    cores = len(os.sched_getaffinity(0))
    clean, noisy = pictures_of(given.pictures, given.side)
    rates: dict[str, list[float]] = {"plain": [], "ours": []}
    results: dict[str, Tensor] = {}
    with multiprocessing.get_context("spawn").Pool(cores, one_thread) as pool:
        pool.map(our_fit, [(one.numpy(), 2) for one in noisy], chunksize=1)  # what is made once is made
        plain_fit(noisy[:1], 2)
        for number in range(given.rounds):
            for side in ("plain", "ours") if number % 2 == 0 else ("ours", "plain"):
                begin = time.perf_counter()
                if side == "plain":
                    torch.manual_seed(number)
                    results[side] = torch.cat([plain_fit(one[None], given.steps) for one in noisy])
                else:
                    tasks = [(one.numpy(), given.steps) for one in noisy]
                    results[side] = torch.from_numpy(np.stack(pool.map(our_fit, tasks, chunksize=1)))
                rates[side].append(60 * given.pictures / (time.perf_counter() - begin))
            print(f"round {number}: {rates['ours'][-1]:.1f} against {rates['plain'][-1]:.1f} per minute", flush=True)
    ratios = [ours / plain for ours, plain in zip(rates["ours"], rates["plain"], strict=True)]
    quality = {side: mean_psnr(one, clean) for side, one in results.items()}
    finish(
        {
            "benchmark": "zero_shot_fit",
            "ratio_plain": round(statistics.median(ratios), 3),
            "ratios": [round(one, 3) for one in ratios],
            "pictures_per_minute": {side: [round(one, 2) for one in values] for side, values in rates.items()},
            "psnr_difference_db": round(quality["ours"] - quality["plain"], 3),
            "psnr_db": {side: round(one, 2) for side, one in quality.items()},
            "psnr_noisy_db": round(mean_psnr(noisy, clean), 2),
            "side": given.side,
            "steps": given.steps,
            "cores": cores,
        }
    )


if __name__ == "__main__":
    main(sys.argv[1:])
