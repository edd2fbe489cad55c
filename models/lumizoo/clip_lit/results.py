"""Results of earlier rounds, which the refinement of prompts reads beside each backlit picture (card clip-lit)."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor, nn

from lumiray.data.records import image_of
from lumiray.system import BadRow, Row
from lumizoo.blocks.pictures import through
from lumizoo.clip_lit.network import enhanced_in_training
from lumizoo.clip_lit.prepare import RESULT_PARTS, squared


@torch.no_grad()
def stored_result(enhancer: nn.Module, picture: np.ndarray, size: int = 256) -> np.ndarray:
    """A backlit picture as the enhancer of a round makes it, in the form that training gives it.

    Args:
        picture: uint8 RGB `(H, W, 3)`, without any random change.
        size: S, `--prompt-size`.

    Returns:
        uint8 RGB `(S, S, 3)`, rounded.
    """
    device = next(enhancer.parameters()).device

    def change(pictures: Tensor) -> Tensor:
        return enhanced_in_training(enhancer, pictures.to(device))

    return through(squared(picture, size), change)


def with_result(row: Row, enhancer: nn.Module, size: int, kept: int) -> dict[str, bytes]:
    """The parts of a backlit row, and what its picture has become in the last rounds.

    Args:
        row: a picture, with the results of the rounds before this one's where more than one is kept.
        enhancer: of this round.
        kept: how many results the row has after this: the newest ones, the oldest of them first.

    Raises:
        BadRow: it has no picture, one that cannot be decoded, or too few results of the rounds before.
    """
    earlier = [row.parts[part] for part in RESULT_PARTS if part in row.parts]
    if len(earlier) + 1 < kept:
        raise BadRow(
            f"the row has {len(earlier)} results of earlier rounds and {kept - 1} are kept: give the rows that the "
            "round before has left in the folder records of its run"
        )
    result = png(stored_result(enhancer, image_of(row).decoded(), size))
    plain = {part: data for part, data in row.parts.items() if part not in RESULT_PARTS}
    return plain | dict(zip(RESULT_PARTS, [*earlier, result][-kept:], strict=False))


def png(picture: np.ndarray) -> bytes:
    """uint8 RGB `(H, W, 3)` as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()
