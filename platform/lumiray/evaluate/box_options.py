"""The options of the job that evaluates boxes, and what its sets are called; read without torch and Ray."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from lumiray.errors import UserError, check_number

Measured = Literal["coco", "lvis", "phrases"]
_NAMED = re.compile(r"([A-Za-z0-9_.-]+)=(.+)")


@dataclass(frozen=True)
class BoxOptions:
    """What is evaluated, on what, by which measures."""

    val_shards: tuple[str, ...]
    """Shards to evaluate on: a folder, pattern, list with `::`, or s3:// address; several sets each as NAME=SHARDS."""
    run: str | None = None
    """A run's output, whose newest checkpoint is evaluated with the run's settings, or one of its checkpoints."""
    measures: tuple[Measured, ...] = ("coco",)
    """coco: average precision; lvis: its fixed form; phrases: recall of a caption's phrases at 1, 5, 10."""
    class_pictures: str | None = None
    """File of LVIS's form: its `image_count` says which classes are rare; if not given, the evaluated pictures do."""
    workers: int = 1
    """Evaluating processes, each with one GPU where there are GPUs; no figure depends on their number."""
    batch_size: int = 1
    """Pictures per forward pass; those of a pass are padded to one size."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the forward passes."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto uses GPUs where the cluster has them."""
    output: str | None = None
    """Where the figures go as JSON; `RUN/scores/TIME.json`, or here, if not given."""

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            UserError: names the option, its value, and what is allowed.
        """
        check_number("workers", self.workers, 1)
        check_number("batch-size", self.batch_size, 1)
        if not self.measures:
            raise UserError("--measures names none; give one or more of coco, lvis, phrases.")
        if self.class_pictures is not None and "lvis" not in self.measures:
            raise UserError("--class-pictures is of the classes of LVIS: give --measures lvis with it.")


def named_sets(val_shards: tuple[str, ...]) -> dict[str, str]:
    """Shards by the name of their set; a single set without a name is called "".

    Raises:
        UserError: none is given, several and one of them has no name, or a name comes twice.
    """
    if not val_shards:
        raise UserError("--val-shards names nothing to evaluate on.")
    if len(val_shards) == 1 and not _NAMED.fullmatch(val_shards[0]):
        return {"": val_shards[0]}
    found: dict[str, str] = {}
    for text in val_shards:
        match = _NAMED.fullmatch(text)
        if match is None:
            raise UserError(
                f"--val-shards {text!r} has no name; of several sets each is NAME=SHARDS, as in pets={text}."
            )
        if match[1] in found:
            raise UserError(f"--val-shards names {match[1]!r} twice.")
        found[match[1]] = match[2]
    return found
