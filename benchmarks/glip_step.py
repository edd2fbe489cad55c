"""Where the time of a GLIP step goes, and the job's step against the bare network's.

    python benchmarks/glip_step.py [--rounds 3] [--steps 40] [--settings examples/grounding/grounding.yaml]

The bare side has its batches in memory from the start, and does what cannot be left out: the network's forward, the
losses, backward, clipping, fused AdamW.  The job does the same from shards, through its engine, with its log.  They
alternate, each in a process of its own, on the scenes of examples/grounding; `ratio_bare` is the job's median step
over the bare one's, the median of the rounds (at most 1.1 is the target).  The job's first steps are left out: until as
many rows wait as may, decoders run as fast as they can beside it, and for some 30 s helper processes of Ray still
start; `ratio_first` is that of those steps.  `shares` are the bare step's: it is run once more in three pieces, the two
towers and what reads them, each gone backward through by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tarfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from job import ROOT, finish, run_job

sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "models"), str(ROOT / "examples" / "grounding")]

SCENES = ROOT / ".cache" / "benchmarks" / "scenes"
SHARDS, WORDS = SCENES / "shards" / "named", SCENES / "words.txt"
SETTINGS = ROOT / "examples" / "grounding" / "grounding.yaml"
WARM_STEPS = 8
JOB_WARM_STEPS = 120
BATCHES = 8  # in memory on the bare side; the steps go round them


def rows() -> Iterator[Any]:
    """The rows of the first shard, as a system's `prepare` takes them."""
    from lumiray.system import Row

    parts: dict[str, dict[str, bytes]] = defaultdict(dict)
    with tarfile.open(min(SHARDS.glob("*.tar"))) as archive:
        for member in archive:
            key, _, extension = member.name.partition(".")
            parts[key][extension] = archive.extractfile(member).read()  # type: ignore[union-attr]
    return (Row(key, fields, number) for number, (key, fields) in enumerate(parts.items()))


class Bare:
    """The network, its optimizer, and batches in memory."""

    def __init__(self, settings: str) -> None:
        import numpy as np
        import torch

        from lumiray.settings_file import job_from, read_settings
        from lumizoo.glip.system import KEY, GlipSystem, targets_of

        torch.manual_seed(0)
        given = read_settings(settings) | {"vocabulary": str(WORDS)}
        self.job = job_from("glip", given, settings)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        system = GlipSystem(self.job.system)
        (stage, *_) = system.stages()
        self.network = system.build(stage)[KEY].to(self.device).train()
        (player,) = stage.players
        size, made, draw = self.job.run.global_batch_size, rows(), np.random.default_rng(0)
        self.batches = []
        for _ in range(BATCHES):
            batch = system.collate([system.prepare(stage, next(made), draw) for _ in range(size)])
            self.batches.append({name: torch.from_numpy(value).to(self.device) for name, value in batch.items()})
        self.targets = [targets_of(batch) for batch in self.batches]
        self.clip_norm = self.job.run.engine.clip_norm
        settings_of = player.optimizer
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), 1e-4, settings_of.betas, settings_of.eps, settings_of.weight_decay, fused=True
        )

    def pixels(self, number: int) -> Any:
        """What the picture tower takes of a batch."""
        from lumizoo.glip.network import normalised

        batch = self.batches[number]
        return normalised(batch["picture"], batch["size"], next(self.network.parameters()).dtype)

    def texts(self, number: int) -> tuple[Any, Any]:
        """Tokens and mask of a batch."""
        batch = self.batches[number]
        return batch["tokens"][:, 0].long(), batch["mask"][:, 0]

    def loss(self, found: Any, number: int) -> Any:
        """Alignment, boxes and centreness, as the job adds them up."""
        from lumizoo.glip.losses import grounding_terms

        terms = grounding_terms(found, self.targets[number]).values()
        return sum(one.weight * one.sum / one.count.clamp(min=max(one.least, 1.0)) for one in terms)

    def finish_step(self) -> None:
        """From gradients to new weights."""
        import torch

        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def step(self, number: int) -> None:
        """One whole step."""
        self.loss(self.network(self.pixels(number), *self.texts(number)), number).backward()
        self.finish_step()

    def pieces(self, number: int) -> dict[str, float]:
        """The same step in pieces: seconds of each."""
        import torch

        from lumizoo.glip.head import Predictions

        spent: dict[str, float] = {}

        def timed(name: str, do: Callable[[], Any]) -> Any:
            begin = self.now()
            found = do()
            spent[name] = self.now() - begin
            return found

        tokens, mask = self.texts(number)
        levels = timed("picture tower, forward", lambda: self.network.levels(self.pixels(number)))
        text = timed("text tower, forward", lambda: self.network.language_backbone(tokens, mask))
        cut_levels, cut_text = ([one.detach().requires_grad_() for one in several] for several in (levels, text))
        found = timed("fusion and heads, forward", lambda: self.network.rpn["head"](cut_levels, *cut_text, mask))
        predictions = Predictions.of(levels, found)
        loss = timed("losses and assignment, forward", lambda: self.loss(predictions, number))
        timed("fusion, heads and losses, backward", loss.backward)

        def backward(outputs: Any, cut: Any) -> None:
            pairs = [(one, leaf.grad) for one, leaf in zip(outputs, cut, strict=True) if leaf.grad is not None]
            torch.autograd.backward([one for one, _ in pairs], [gradient for _, gradient in pairs])

        timed("picture tower, backward", lambda: backward(levels, cut_levels))
        timed("text tower, backward", lambda: backward(text, cut_text))
        timed("clipping and optimizer", self.finish_step)
        return spent

    def now(self) -> float:
        """The clock, once everything that was asked of a GPU is done."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


class Engine:
    """The job's engine and step, on the batches of the bare side."""

    def __init__(self, side: Bare) -> None:
        import torch
        import torch.distributed as dist

        from lumiray.train.engine import make_engine
        from lumizoo.glip.system import GlipSystem

        os.environ.setdefault("LOCAL_RANK", "0")
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        torch.manual_seed(0)
        run, system = side.job.run, GlipSystem(side.job.system)
        (stage, *_) = system.stages()
        system.networks = {name: one.to(side.device) for name, one in system.build(stage).items()}
        self.side = side
        self.engine = make_engine(system, stage.players[0], run, run.global_batch_size, side.device)

    def step(self, number: int) -> None:
        """One whole step."""
        from lumiray.train.engine import take_step
        from lumiray.train.step import MicroBatch, StepPlace, accumulate

        micro_batch = MicroBatch(dict(self.side.batches[number]), 0)
        accumulate(self.engine, [micro_batch], StepPlace(0, number, 1, 1), None)
        take_step(self.engine)


def bare(settings: str, steps: int) -> dict[str, Any]:
    """Median seconds of a bare step and of its pieces, and of a step of the engine beside it."""
    side = Bare(settings)
    times = seconds_of(side, [side], steps)
    pieces = [side.pieces(number) for number in range(BATCHES)]
    spent = {name: statistics.median(one[name] for one in pieces) for name in pieces[0]}
    beside, engine = seconds_of(side, [side, Engine(side)], steps)
    return {"step_s": times[0], "pieces_s": spent, "ratio_engine": engine / beside}


def seconds_of(clock: Bare, sides: list[Any], steps: int) -> list[float]:
    """Median seconds of a step of each side, one after the other in every turn."""
    times: list[list[float]] = [[] for _ in sides]
    for number in range(WARM_STEPS + steps):
        for side, taken in zip(sides, times, strict=True):
            begin = clock.now()
            side.step(number % BATCHES)
            taken.append(clock.now() - begin)
    return [statistics.median(taken[WARM_STEPS:]) for taken in times]


def job(settings: str, steps: int, seed: int) -> dict[str, float]:
    """Median seconds of the job's step at first and in the long run, and the share that it waits for data then."""
    options = [
        *("--config", settings, "--vocabulary", str(WORDS), "--shards", str(SHARDS), "--seed", str(seed)),
        *("--steps", str(JOB_WARM_STEPS + steps), "--warmup", "1", "--evaluate.every", "0"),
        *("--log.every", "1", "--checkpoint.every", "1000000"),
    ]
    rows = run_job("glip-step", options, "glip_pretrain.py").rows
    late = rows[JOB_WARM_STEPS:]
    first = statistics.median(row["step_s"] for row in rows[WARM_STEPS : WARM_STEPS + steps])
    return {name: statistics.median(row[name] for row in late) for name in ("step_s", "data_wait_share")} | {
        "first_step_s": first
    }


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40, help="of each side, behind those that are left out")
    parser.add_argument("--settings", default=str(SETTINGS), help="YAML of a GLIP run")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.bare:
        print(json.dumps(bare(given.settings, given.steps)))
        return
    from compose import make_scenes

    make_scenes(SCENES)
    ours, theirs = [], []
    command = [sys.executable, __file__, "--bare", "--settings", given.settings, "--steps", str(given.steps)]
    for number in range(given.rounds):
        ours.append(job(given.settings, given.steps, number))
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        theirs.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"job {ours[-1]['step_s']:.3f} s a step, bare {theirs[-1]['step_s']:.3f} s", flush=True)
    spent = {name: statistics.median(one["pieces_s"][name] for one in theirs) for name in theirs[0]["pieces_s"]}
    whole = sum(spent.values())
    for name, seconds in spent.items():
        print(f"{name:36s}{1000 * seconds:9.1f} ms{100 * seconds / whole:7.1f} %")
    ratios = [one["step_s"] / other["step_s"] for one, other in zip(ours, theirs, strict=True)]
    first = [one["first_step_s"] / other["step_s"] for one, other in zip(ours, theirs, strict=True)]
    finish(
        {
            "benchmark": "glip_step",
            "ratio_bare": round(statistics.median(ratios), 4),
            "ratios": [round(one, 4) for one in ratios],
            "ratio_engine": round(statistics.median(one["ratio_engine"] for one in theirs), 4),
            "ratio_first": round(statistics.median(first), 4),
            "job_step_s": round(statistics.median(one["step_s"] for one in ours), 4),
            "bare_step_s": round(statistics.median(one["step_s"] for one in theirs), 4),
            "data_wait_share": round(statistics.median(one["data_wait_share"] for one in ours), 4),
            "shares": {name: round(seconds / whole, 4) for name, seconds in spent.items()},
        }
    )


if __name__ == "__main__":
    main(sys.argv[1:])
