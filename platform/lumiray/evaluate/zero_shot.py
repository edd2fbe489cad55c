"""Zero-shot classification: class names and templates in, accuracy out (card clip, Inference and evaluation)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor

from lumiray.errors import UserError
from lumiray.evaluate.collect import Collected
from lumiray.system import Batch

SCORE_SCALE = 100.0  # constant, not the learnt scale: as published


def class_embeddings(
    encode_text: Callable[[Tensor], Tensor],
    tokenize: Callable[[list[str]], Tensor],
    class_names: Sequence[str],
    templates: Sequence[str],
    classes_at_once: int = 16,
) -> Tensor:
    """One column per class: features of all filled templates, normalised, averaged, normalised again.

    Args:
        encode_text: token ids `(n, context)` -> features `(n, D)`.
        templates: texts with `{}` for the class.

    Returns:
        `(D, classes)`.
    """
    columns = []
    for start in range(0, len(class_names), classes_at_once):
        names = class_names[start : start + classes_at_once]
        texts = [template.replace("{}", name) for name in names for template in templates]
        features = functional.normalize(encode_text(tokenize(texts)).float(), dim=-1)
        means = features.reshape(len(names), len(templates), -1).mean(1)
        columns.append(functional.normalize(means, dim=-1))
    return torch.cat(columns).T


def zero_shot_logits(image: Tensor, classifier: Tensor) -> Tensor:
    """Scores `(b, classes)` of normalised features `(b, D)`."""
    return SCORE_SCALE * image @ classifier


class ZeroShotEvaluator:
    """Top-1 and top-5 accuracy over an evaluation set whose rows carry a class number (`.cls`)."""

    def __init__(self, classifier: Tensor) -> None:
        self._classifier = classifier
        self._collected = Collected()

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Take one batch; rows need `label`, `row` and `valid`.

        Raises:
            UserError: the rows have no class numbers.
        """
        if "label" not in batch:
            raise UserError("Zero-shot classification needs a class number per row: a member KEY.cls in the shards.")
        logits = zero_shot_logits(outputs["image"], self._classifier.to(outputs["image"].device))
        own = logits.gather(1, batch["label"][:, None])
        rank = (logits > own).sum(1)
        self._collected.add(batch["valid"], row=batch["row"], rank=rank)

    def compute(self) -> dict[str, float]:
        """`zero_shot_top1` and `zero_shot_top5` in [0, 1]; equal on every rank."""
        rank = self._collected.everywhere("row")["rank"]
        return {f"zero_shot_top{k}": float((rank < k).double().mean()) for k in (1, 5)}


def read_class_names(source: str) -> list[str]:
    """Class names of a file, one per line, or `imagenet` for open_clip's cleaned list of 1,000.

    Raises:
        UserError: no such file, an empty one, or a name twice.
    """
    if source == "imagenet":
        from open_clip import IMAGENET_CLASSNAMES

        return list(IMAGENET_CLASSNAMES)
    names = _lines(source, "--evaluate.class-names")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"--evaluate.class-names {source}: {twice[0]!r} stands there twice.")
    return names


def read_templates(source: str) -> list[str]:
    """Templates of a file, one per line with `{}`; or `openai` (80 of them) or `simple` (7).

    Raises:
        UserError: no such file, or a line without `{}`.
    """
    if source in ("openai", "simple"):
        import open_clip

        lists = {"openai": open_clip.OPENAI_IMAGENET_TEMPLATES, "simple": open_clip.SIMPLE_IMAGENET_TEMPLATES}
        return [template("{}") for template in lists[source]]
    templates = _lines(source, "--evaluate.templates")
    for number, template in enumerate(templates, 1):
        if "{}" not in template:
            raise UserError(f"--evaluate.templates {source}, line {number}: {template!r} has no {{}} for the class.")
    return templates


def _lines(path: str, option: str) -> list[str]:
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"{option} {path}: {error.strerror}.") from None
    if not lines:
        raise UserError(f"{option} {path}: the file is empty.")
    return lines
