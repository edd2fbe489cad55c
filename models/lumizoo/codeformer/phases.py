"""What each iteration of stage features is about (card codeformer, Training)."""

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
        degraded: name of the batch's pictures.
        fidelity: of the picture that is made; 0 makes none, and codes alone are trained.
    """

    degraded: str
    fidelity: float


def phase_at(step: int, config: CodeformerConfig) -> Phase:
    """The phase of a 0-based optimizer step.

    The published code asks at iteration 120 000 for a picture with fidelity 0, in which nothing could learn, and
    fails: here that iteration trains codes alone.
    """
    iteration = step + 1
    if iteration <= config.faithful_until:
        return Phase("degraded_slightly", 1.0)
    if iteration <= config.exaggerated_until:
        return Phase("degraded_slightly", EXAGGERATED)
    if iteration > config.codes_until and iteration % PICTURE_EVERY == 0:
        return Phase("degraded_slightly", EXAGGERATED)
    return Phase("degraded", 0.0)


def first_picture(config: CodeformerConfig) -> int:
    """The first step at which the discriminator moves: there is a picture, and its time has come."""
    return next(step for step in count(config.features_gan_start) if phase_at(step, config).fidelity)
