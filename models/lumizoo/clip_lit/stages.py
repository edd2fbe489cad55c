"""The order of training: prompts, reconstruction, then rounds of enhancement and refinement (card clip-lit, Training).

Deviations from the published script, whose lengths follow its losses:

* Lengths are fixed.  It lengthens a stage by 60 or 100 steps where its loss is above 90 or 60 at the end, and starts
  the reconstruction anew with another seed where PSNR stays below 8 dB.
* A stage ends with its last weights, and these give the results that the next refinement reads.  It keeps the files
  whose loss over 30 steps was the lowest of the round; its networks, too, go on with the last weights.
* Each stage starts with fresh moments of Adam.  Its two optimizers live through the whole run.
* Each of its first two stages is left out where a file is given for what it trains.  Here a file of prompts leaves the
  first out, and files of both leave out the second, too; an enhancer by itself is carried through both.
"""

from __future__ import annotations

from lumiray.system import Optimizer, Player, Record, Stage
from lumizoo.clip_lit.config import ClipLitConfig

PROMPTS, RECONSTRUCT, ENHANCE, REFINE = "prompts", "reconstruct", "enhance", "refine"
BACKLIT, WELL_LIT = "backlit", "well-lit"
STEPS = {PROMPTS: 8000, RECONSTRUCT: 1000, ENHANCE: 2100, REFINE: 1000}
ROWS = {PROMPTS: 16, RECONSTRUCT: 8, ENHANCE: 8, REFINE: 32}  # of a step; refinement has 16 of each source
RATES = {"enhancer": 2e-5, "prompts": 5e-6}
MOST_RESULTS = 2  # of stored results of earlier rounds that a refinement reads


def chain(config: ClipLitConfig) -> tuple[Stage, ...]:
    """All stages, each from the result of the one before; without the identity term there is nothing to reconstruct."""
    names = []
    if not config.prompt_weights:
        names.append(PROMPTS)
    if config.identity_weight and not (config.prompt_weights and config.weights):
        names.append(RECONSTRUCT)
    for number in range(1, config.rounds + 1):
        names += [f"{ENHANCE}-{number}", f"{REFINE}-{number}"]
    return tuple(_stage(name, start) for name, start in zip(names, (None, *names), strict=False))


def _stage(name: str, start: str | None) -> Stage:
    kind = kind_of(name)
    trains_prompts = kind in (PROMPTS, REFINE)
    return Stage(
        name,
        Record.UNPAIRED,
        (_player(trains_prompts),),
        start=start,
        steps=STEPS[kind],
        global_batch_size=ROWS[kind],
        evaluation_batch_size=1,
        metrics=() if trains_prompts else ("psnr", "ssim"),
        sources=(BACKLIT, WELL_LIT) if trains_prompts else (BACKLIT,),
        derives=BACKLIT if kind == REFINE else None,
    )


def _player(trains_prompts: bool) -> Player:
    """Who moves; the other network is locked and goes along, so that the next stage finds it in this one's result."""
    networks = ("prompts", "enhancer") if trains_prompts else ("enhancer", "prompts")
    optimizer = Optimizer("adam", lr=RATES[networks[0]], betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-3)
    return Player(networks[0], networks, optimizer)


def kind_of(name: str) -> str:
    """What a stage does, without the number of its round."""
    return name.partition("-")[0]


def num_results(name: str) -> int:
    """How many stored results of each backlit picture a stage reads: those of this round and the one before."""
    kind, _, number = name.partition("-")
    return min(int(number), MOST_RESULTS) if kind == REFINE else 0
