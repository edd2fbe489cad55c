"""What is trained in which order, by task (card codeformer, Training)."""

from __future__ import annotations

from lumiray.system import Optimizer, Player, Record, Schedule, Stage
from lumizoo.codeformer.config import CodeformerConfig
from lumizoo.codeformer.phases import first_picture

METRICS = ("psnr", "ssim")
OWN = ("codeformer", "target")  # the second is frozen, and saved with the first: every later stage needs it


def adam(rate: float) -> Optimizer:
    """The optimizer of every player."""
    return Optimizer("adam", lr=rate, betas=(0.9, 0.99))


def stages_of(config: CodeformerConfig) -> tuple[Stage, ...]:
    """The autoencoder; then the prediction of codes and what makes faces faithful, or both at once to fill holes."""
    later = {
        "restoration": (codes(), features(config)),
        "colourisation": (codes(),),
        "inpainting": (inpainting(config),),
    }
    return (vqgan(config), *later[config.task])


def vqgan(config: CodeformerConfig) -> Stage:
    """Faces through a codebook, from scratch."""
    schedule = Schedule("cosine", floor=6e-5)
    players = (
        Player("vqgan", ("vqgan",), adam(7e-5), schedule, ema=0.995, inner_gradients=True),
        Player("discriminator", ("discriminator",), adam(7e-5), schedule, start=first_picture("vqgan", config)),
    )
    return Stage(
        "vqgan",
        Record.CLEAN,
        players,
        steps=1_600_000,
        global_batch_size=32,
        micro_batch_size=4,
        metrics=METRICS,
    )


def codes() -> Stage:
    """Codes of a clean face from its degraded version; no picture is made, and the discriminator is handed through."""
    schedule = Schedule("steps", milestones=(400_000, 450_000), factor=0.5)
    return Stage(
        "codes",
        Record.CLEAN,
        (Player("codeformer", (*OWN, "discriminator"), adam(1e-4), schedule, ema=0.995),),
        start="vqgan",
        steps=500_000,
        global_batch_size=32,
        micro_batch_size=4,
        metrics=METRICS,
    )


def features(config: CodeformerConfig) -> Stage:
    """Connections from the encoder to the generator, and codes further."""
    schedule = Schedule("cosine", floor=2e-5)
    players = (
        Player("codeformer", OWN, adam(5e-5), schedule, ema=0.997, inner_gradients=True),
        Player("discriminator", ("discriminator",), adam(5e-5), schedule, start=first_picture("features", config)),
    )
    return Stage(
        "features",
        Record.CLEAN,
        players,
        start="codes",
        steps=150_000,
        global_batch_size=24,
        micro_batch_size=3,
        metrics=METRICS,
    )


def inpainting(config: CodeformerConfig) -> Stage:
    """Codes and connections at once, from faces with white strokes."""
    schedule = Schedule("steps", milestones=(250_000,), factor=0.5)
    players = (
        Player("codeformer", OWN, adam(7e-5), schedule, ema=0.997, inner_gradients=True),
        Player("discriminator", ("discriminator",), adam(7e-5), schedule, start=first_picture("inpainting", config)),
    )
    return Stage(
        "inpainting",
        Record.CLEAN,
        players,
        start="vqgan",
        steps=300_000,
        global_batch_size=12,
        micro_batch_size=3,
        metrics=METRICS,
    )
