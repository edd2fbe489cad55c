"""Losses against a teacher, and of captions, as functions (card clip, Losses)."""

from __future__ import annotations

import torch.nn.functional as functional
from torch import Tensor


def distillation_loss(
    image: Tensor, text: Tensor, scale: Tensor, teacher_image: Tensor, teacher_text: Tensor, teacher_scale: Tensor
) -> Tensor:
    """Mean cross-entropy between the teacher's and the student's softmax over the batch, both directions.

    Args:
        image, text: the student's normalised features, `(B, D)`.
        teacher_image, teacher_text: the teacher's, of any width, `(B, E)`; they get no gradient.
        scale, teacher_scale: exponentiated.
    """
    teacher = (teacher_scale * teacher_image @ teacher_text.T).detach()
    student = scale * image @ text.T
    directions = ((teacher, student), (teacher.T, student.T))
    return -sum((wanted.softmax(1) * found.log_softmax(1)).sum(1).mean() for wanted, found in directions) / 2


def caption_loss(logits: Tensor, labels: Tensor, pad_id: int = 0) -> tuple[Tensor, Tensor]:
    """Cross-entropy over the vocabulary as (sum, number of kept positions); padding is left out.

    Args:
        logits: `(B, T, V)`; labels: int64 `(B, T)`.
    """
    total = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=pad_id, reduction="sum")
    return total, (labels != pad_id).sum()
