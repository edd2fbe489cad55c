"""Systems whose gradients are compared, each with its weights and three steps of micro-batches, equal at every call."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lumiray.system import Batch, System

K, MICRO, STEPS = 4, 2, 3  # micro-batches of a step, rows of each; steps
SIDE = 16


@dataclass(frozen=True)
class Subject:
    """A system under test: a player, fresh networks in training mode, micro-batches by step, a rate for plain SGD."""

    name: str
    player: str
    built: Callable[[], System]
    batches: Callable[[], list[list[Batch]]]
    lr: float
    stage: int = 0
    ranks: tuple[int, ...] = (2,)


def pairs_built() -> System:
    """Losses are means within a micro-batch (SSIM, squares)."""
    from lumiray.registry import system

    torch.manual_seed(0)
    found = system("cidnet", channels=(4, 4, 8, 8), heads=(1, 2, 2, 4), crop_size=SIDE, perceptual_weight=0.0)
    found.build(found.stages()[0])
    return found


def pairs() -> list[list[Batch]]:
    """Soft bright pictures and their dark halves, uint8."""
    draw = np.random.default_rng(1)
    coarse = draw.integers(40, 216, (STEPS, K, MICRO, 3, SIDE // 4, SIDE // 4))
    bright = coarse.repeat(4, -1).repeat(4, -2) + draw.integers(-9, 10, (STEPS, K, MICRO, 3, SIDE, SIDE))
    return [
        [{"lq": torch.from_numpy(one // 4).byte(), "gt": torch.from_numpy(one).byte()} for one in step]
        for step in bright
    ]


def boxes_built() -> System:
    """Terms are divided by counts of the whole global batch; text has dropout, names have rates of their own."""
    from tests.zoo.glip_squares import built, tiny

    return built(tiny(Path(tempfile.mkdtemp()), train_sides=(32, 64)))


def boxes() -> list[list[Batch]]:
    """Squares and their colours, in micro-batches of unequal sizes and numbers of boxes."""
    from tests.zoo.glip_squares import batch_of, prepared, row, squares

    system, draw = boxes_built(), np.random.default_rng(2)
    steps: list[list[Batch]] = []
    for step in range(STEPS):
        micros = []
        for number in range(K):
            rows = []
            for place in range(MICRO):
                picture, told = squares(draw)
                kept = 1 + number % 2
                told |= {"boxes": told["boxes"][:kept], "spans": told["spans"][:kept]}
                rows.append(prepared(system, row(picture, **told), seed=100 * step + 10 * number + place))
            micros.append(batch_of(system, rows))
        steps.append(micros)
    return steps


def exposures_built() -> System:
    """One network, read several times by one forward of the losses."""
    from tests.zoo.dark_scenes import built

    return built()


def exposures() -> list[list[Batch]]:
    """Two exposures of a scene, uint8."""
    from tests.zoo.dark_scenes import exposed, photo

    scenes = [photo(24, 24, seed) for seed in range(STEPS * K * MICRO)]
    pairs = np.stack([[exposed(one, 0.3), exposed(one, 0.6)] for one in scenes]).transpose(0, 1, 4, 2, 3)
    cut = torch.from_numpy(np.ascontiguousarray(pairs)).unflatten(0, (STEPS, K, MICRO))
    return [[{"exposures": micro} for micro in step] for step in cut]


def codes_built() -> System:
    """A frozen network beside the trained one, and methods of both in place of their forward."""
    from tests.zoo.codeformer_faces import built

    return built("codes")


def faces() -> list[list[Batch]]:
    """Soft faces, clean and degraded."""
    from tests.zoo.codeformer_faces import batch

    return [[batch(MICRO, seed=10 * step + MICRO * number) for number in range(K)] for step in range(STEPS)]


def prompts_built() -> System:
    """Prompts through a frozen CLIP."""
    from tests.zoo.small_clips import built, files

    return built(files(Path(tempfile.mkdtemp())), "prompts")


def lights() -> list[list[Batch]]:
    """Dark and bright pictures in turns."""
    from tests.zoo.small_clips import mixed

    return [[mixed(MICRO // 2) for _ in range(K)] for _ in range(STEPS)]


def enhancer_built() -> System:
    """An enhancer that two frozen networks judge."""
    from tests.zoo.small_clips import built, files

    return built(files(Path(tempfile.mkdtemp())), "enhance-1")


_ALL = (
    Subject("cidnet", "cidnet", pairs_built, pairs, lr=0.02, ranks=(1, 2)),
    Subject("glip", "glip", boxes_built, boxes, lr=0.01, ranks=(1, 2)),
    Subject("pairlie", "pairlie", exposures_built, exposures, lr=0.01),
    Subject("codeformer, codes", "codeformer", codes_built, faces, lr=0.01, stage=1),
    Subject("clip-lit, prompts", "prompts", prompts_built, lights, lr=0.01),
    Subject("clip-lit, enhancer", "enhancer", enhancer_built, lights, lr=1e-3, stage=2),
)
SUBJECTS = {one.name: one for one in _ALL}
