"""Pictures of a user, and what of a text is a phrase (card glip, Inference)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lumiray.errors import UserError

_SEPARATOR = re.compile(r"\s*\.(?:\s+|$)")


def pixels_of(picture: Any) -> np.ndarray:
    """A user's picture as uint8 RGB `(H, W, 3)`.

    Args:
        picture: PIL of any mode; an uint8 array `(H, W, 3)`; or a tensor `(3, H, W)`, uint8 or floating in [0, 1].

    Raises:
        UserError: another kind, shape or range.
    """
    if hasattr(picture, "convert"):
        return np.asarray(picture.convert("RGB"))
    wrong = UserError(
        f"A picture is a PIL picture, a uint8 array (H, W, 3) or a tensor (3, H, W), not {_described(picture)}."
    )
    if isinstance(picture, Tensor):
        if picture.ndim != 3 or picture.shape[0] != 3 or not picture.numel():
            raise wrong
        array = picture.detach().cpu().numpy().transpose(1, 2, 0)
        if picture.is_floating_point():
            if not (array.min() >= 0 and array.max() <= 1):  # written so that NaN is refused, too
                raise UserError("The picture's values do not lie in [0, 1]; divide 8-bit levels by 255.")
            array = (255 * array).round().astype(np.uint8)
    else:
        array = picture
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise wrong
    if not array.size:
        raise wrong
    return array


def _described(picture: Any) -> str:
    shape = getattr(picture, "shape", None)
    return type(picture).__name__ if shape is None else f"{picture.dtype} of shape {tuple(shape)}"


def phrases_in(text: str) -> list[list[tuple[int, int]]]:
    """Spans of the phrases that dots divide, one for each; a text without a dot is one phrase."""
    found: list[list[tuple[int, int]]] = []
    begin = 0
    for match in [*_SEPARATOR.finditer(text), None]:
        end = len(text) if match is None else match.start()
        if text[begin:end].strip():
            found.append([(begin, end)])
        begin = end if match is None else match.end()
    return found


def checked_spans(text: str, spans: Sequence[Any]) -> list[list[tuple[int, int]]]:
    """Spans of a user's phrases.

    Args:
        spans: for each phrase one [begin, end), or a list of them.

    Raises:
        UserError: one is empty or not inside the text.
    """
    found: list[list[tuple[int, int]]] = []
    for one in spans:
        several = [one] if len(one) == 2 and all(isinstance(place, int) for place in one) else list(one)
        for span in several:
            if len(span) != 2 or not 0 <= span[0] < span[1] <= len(text):
                raise UserError(f"The span {span} is not [begin, end) within the text's {len(text)} characters.")
        found.append([(int(begin), int(end)) for begin, end in several])
    return found


def words_of(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """A phrase as it is written in the text; pieces are joined by a blank."""
    return " ".join(text[begin:end].strip() for begin, end in spans)
