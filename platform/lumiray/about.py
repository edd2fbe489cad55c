"""What a system says about itself in plain data, read without torch: `ABOUT = About(...)` in its `about.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class About:
    """Facts of a published system; figures and licences are those of its card.

    Args:
        name: as the authors write it.
        task: what it is for, in a few words.
        paper: authors, place, arXiv number.
        code: the published repository.
        code_licence, weights_licence: of what the authors published, not of this project.
        figures: published result -> its value in words, the headline first.
        stages: name of every stage -> what one row holds (`Record`); empty where nothing is trained.
        tensors: names that together only this system's checkpoints hold.
        verified: parts whose numbers agree with those of the published code (`tests/parity/cases`).
    """

    name: str
    task: str
    paper: str
    code: str
    code_licence: str
    weights_licence: str
    figures: Mapping[str, str]
    stages: Mapping[str, str] = field(default_factory=dict)
    tensors: tuple[str, ...] = ()
    verified: tuple[str, ...] = ()
