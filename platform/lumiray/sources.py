"""Training shards as a user names them: one set, or several that are mixed by weight.

    --shards 'photos/{00000..00099}.tar'
    --mix 'photos=3:photos/{00000..00099}.tar' drawings=1:s3://bucket/drawings

Only the ratios of weights matter: here three of four rows in every batch are photos.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lumiray.errors import UserError, near

ONLY = "shards"  # name of the one source that --shards gives
_FORM = re.compile(r"(?P<name>[\w.-]+)=(?P<weight>[^:]+):(?P<patterns>.+)", re.DOTALL)


@dataclass(frozen=True)
class NamedShards:
    """One source of training rows.

    Args:
        name: decides the order of its rows, with the run's seed.
        weight: its share of every batch, relative to the other sources; above 0.
        patterns: as `listing.expand` takes them.
    """

    name: str
    weight: float
    patterns: str

    def __str__(self) -> str:
        return f"{self.name}={self.weight!r}:{self.patterns}"


def training_sources(shards: str | None, mix: Sequence[str]) -> tuple[NamedShards, ...]:
    """What --shards or --mix names, in its order.

    Raises:
        UserError: neither or both are given, a source is written in another way, or two have one name.
    """
    if shards and mix:
        raise UserError("--shards and --mix both name the training shards; leave one out.")
    if shards:
        return (NamedShards(ONLY, 1.0, shards),)
    if not mix:
        raise UserError(
            "--shards is missing: say where the training shards are (folder, pattern or s3://), or name several sets "
            "of them with --mix."
        )
    sources = tuple(_parsed(text) for text in mix)
    names = [source.name for source in sources]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"--mix has two sources of the name {twice!r}; give each its own.")
    return sources


def needed_sources(sources: Sequence[NamedShards], needed: Sequence[str], what: str) -> tuple[NamedShards, ...]:
    """The sources that a stage names, in its order; all of them where it names none.

    Args:
        what: system and stage, for messages.

    Raises:
        UserError: one of them is not given.
    """
    named = {source.name: source for source in sources}
    missing = [name for name in needed if name not in named]
    if missing:
        example = " ".join(f"{name}=1:SHARDS" for name in needed)
        raise UserError(f"{what} needs shards of {' and of '.join(needed)}, each by its name: --mix {example}.")
    return tuple(named[name] for name in needed) or tuple(sources)


def counting_source(sources: Sequence[NamedShards], name: str | None) -> str:
    """The source whose passes --epochs counts.

    Raises:
        UserError: no such source, or several and none is named.
    """
    names = [source.name for source in sources]
    if name is None and len(names) > 1:
        raise UserError(f"--epochs with several sources needs --epochs-of, the one that counts: {', '.join(names)}.")
    if name is not None and name not in names:
        raise UserError(
            f"--epochs-of {name}: there is no such source.{near(name, names)} There are {', '.join(names)}."
        )
    return name or names[0]


def _parsed(text: str) -> NamedShards:
    found = _FORM.fullmatch(text)
    try:
        weight = float(found["weight"]) if found else 0.0
    except ValueError:
        weight = 0.0
    if found is None or not 0 < weight < float("inf"):
        raise UserError(
            f"--mix {text!r} is not NAME=WEIGHT:SHARDS with a weight above 0, such as 'photos=3:s3://bucket/photos'."
        )
    return NamedShards(found["name"], weight, found["patterns"])
