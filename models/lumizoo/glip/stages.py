"""What is trained: pre-training, fine-tuning of everything, tuning of a prompt (card glip, Training)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lumiray.system import Optimizer, Player, Record, Schedule, Stage
from lumizoo.glip.config import GlipConfig
from lumizoo.glip.network import TABLE

KEY = "glip"
PRETRAIN, FINETUNE, PROMPT = "pretrain", "finetune", "prompt"
TEXT_FACTOR, BIAS_FACTOR = 0.1, 2.0  # of the learning rate
WARMUP = 2000
STEPS = 684_375  # 30 epochs of 1.46 M pictures
DROPS = (0.67, 0.89)  # parts of the run after which the rate is a tenth of what it was


def stages_of(config: GlipConfig, names: Sequence[str]) -> tuple[Stage, ...]:
    """All three; the last two start from pre-trained weights, each by itself.

    Args:
        names: of the parameters, `glip.NAME`; empty where none are built yet.
    """
    return pretrain(config, names), finetune(config, names), prompt()


def pretrain(config: GlipConfig, names: Sequence[str]) -> Stage:
    """Grounding and detection from towers of pictures and of text.

    The text encoder has a tenth of the rate; what has "bias" in its name has twice its rate and no decay, tables of
    relative positions included.  Published runs clip gradients to a norm of 1: `--engine.clip-norm 1`.  GLIP-L has
    a weight decay of 0.01: `--optimizer.weight-decay 0.01`; that it falls with the rate is left out.  The warm-up
    begins with a 2000th of the rate, in the published code with a 1000th.
    """
    factors = {name: factor for name in names if (factor := rate_factor(name)) != 1}
    return Stage(
        PRETRAIN,
        Record.GROUNDING,
        (_whole(config, 1e-4, names, factors),),
        steps=STEPS,
        global_batch_size=64,
        micro_batch_size=2,
        metrics=("box_ap",),
    )


def finetune(config: GlipConfig, names: Sequence[str]) -> Stage:
    """Everything on, with names of classes in their own order as the prompt.

    One rate for both towers, and twice that for biases, without decay.  Published: 24 epochs of COCO (`--epochs 24`);
    a set of the user's has another length, so none is set.  The card says nothing of warm-up, drops and averaging
    here: they are those of pre-training (`--warmup`, `--ema-decay`).
    """
    factors = {name: BIAS_FACTOR for name in names if "bias" in name}
    return Stage(
        FINETUNE,
        Record.GROUNDING,
        (_whole(config, 1e-5, names, factors),),
        start=PRETRAIN,
        global_batch_size=32,
        micro_batch_size=2,
        metrics=("box_ap",),
    )


def prompt() -> Stage:
    """Only the table that is added to the text's features is learnt; see `freeze_for_prompt`.

    Rate and decay are published.  The published rate drops where the figures no longer get better, which no schedule
    here does: it drops at the parts of the run where that of pre-training does.  Batch size and length are not told:
    the batch is that of fine-tuning.  No warm-up, for the table starts at 0, and no averaging, for runs are short.
    Dropout of the frozen layers stays on in training.
    """
    player = Player(
        KEY,
        (KEY,),
        Optimizer("adamw", lr=0.05, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.25),
        Schedule("steps", milestones=DROPS, factor=0.1),
    )
    return Stage(
        PROMPT,
        Record.GROUNDING,
        (player,),
        start=PRETRAIN,
        global_batch_size=32,
        micro_batch_size=2,
        metrics=("box_ap",),
    )


def freeze_for_prompt(network: nn.Module) -> None:
    """Leave nothing to train but the table."""
    for name, value in network.named_parameters():
        value.requires_grad_(name == TABLE)


def rate_factor(name: str) -> float:
    """By what a parameter's learning rate is multiplied in pre-training (card glip, Training)."""
    own = TEXT_FACTOR if name.startswith(f"{KEY}.language_backbone.") else 1.0
    return own * (BIAS_FACTOR if "bias" in name else 1.0)


def _whole(config: GlipConfig, rate: float, names: Sequence[str], factors: dict[str, float]) -> Player:
    return Player(
        KEY,
        (KEY,),
        Optimizer("adamw", lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-4),
        Schedule("steps", warmup=WARMUP, milestones=DROPS, factor=0.1),
        ema=config.ema_decay or None,
        no_decay=frozenset(name for name in names if "bias" in name),
        lr_factors=factors,
    )
