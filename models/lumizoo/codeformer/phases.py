"""What each iteration of a stage is about (card codeformer, Training)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from lumizoo.codeformer.config import CodeformerConfig

EXAGGERATED = 1.3  # fidelity; the authors do not say why more than 1
PICTURE_EVERY = 15  # iterations, in the last period


@dataclass(frozen=True)
class Phase:
    """What goes in, and whether a picture comes out.

    Args:
        given: name of the batch's pictures.
        fidelity: of the picture that is made; 0 makes none, and codes alone are trained.
    """

    given: str
    fidelity: float


def phase_at(stage: str, step: int, config: CodeformerConfig) -> Phase:
    """The phase of a 0-based optimizer step.

    The published code asks at iteration 120 000 of stage features for a picture with fidelity 0, in which nothing could
    learn, and fails: here that iteration trains codes alone.
    """
    if stage == "vqgan":
        return Phase("clean", 1.0)
    if stage == "codes":
        return Phase("degraded", 0.0)
    iteration = step + 1
    if stage == "inpainting":
        return Phase("masked_widely" if iteration > config.narrow_until else "masked", 1.0)
    if iteration <= config.faithful_until:
        return Phase("degraded_slightly", 1.0)
    if iteration <= config.exaggerated_until:
        return Phase("degraded_slightly", EXAGGERATED)
    if iteration > config.codes_until and iteration % PICTURE_EVERY == 0:
        return Phase("degraded_slightly", EXAGGERATED)
    return Phase("degraded", 0.0)


def gan_start(stage: str, config: CodeformerConfig) -> int:
    """The first step at which the discriminator of a stage may take part."""
    starts = {
        "vqgan": config.vqgan_gan_start,
        "features": config.features_gan_start,
        "inpainting": config.inpainting_gan_start,
    }
    return starts[stage]


def is_adversarial(stage: str, step: int, config: CodeformerConfig) -> bool:
    """Whether the discriminator takes part in a step: there is a picture, and its time has come."""
    return phase_at(stage, step, config).fidelity > 0 and step >= gan_start(stage, config)


def first_picture(stage: str, config: CodeformerConfig) -> int:
    """The first step at which the discriminator of a stage takes part."""
    return next(step for step in count(gan_start(stage, config)) if is_adversarial(stage, step, config))
