"""A picture and a text in, the picture with boxes around what the text speaks of out: `lumiray ground`."""

from __future__ import annotations

import io
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from lumiray.data.decode import eight_bits
from lumiray.data.picture_file import MOST_PIXELS, read_picture
from lumiray.errors import UserError
from lumiray.evaluate.boxes_drawing import with_boxes
from lumiray.evaluate.ground_options import DRAWINGS, GroundCommand
from lumiray.evaluate.run_weights import ready_system, with_own_weights
from lumiray.registry import require_use
from lumiray.storage import read_bytes, without_secrets, write_atomically
from lumiray.system import BadRow, Found


def ground_picture(command: GroundCommand) -> str:
    """Draw the boxes; what was found, a line for each box: phrase, score, x1 y1 x2 y2 in pixels, upright.

    Raises:
        UserError: no picture, a text without a phrase, a system that does not ground, weights that do not fit.
        RunFailure: a damaged checkpoint.
    """
    import torch

    options = command.options
    require_use(command.slug, "ground")
    config = with_own_weights(command.config)
    picture = _picture(options.picture)
    system = ready_system(command.slug, config, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    found = system.ground(picture, options.text, threshold=options.threshold)
    sheet = with_boxes(picture, found.boxes.tolist(), found.labels.tolist(), found.phrases, found.scores.tolist())
    form = DRAWINGS[PurePosixPath(options.output.lower()).suffix]
    buffer = io.BytesIO()
    sheet.save(buffer, form, quality=95)
    write_atomically(options.output, buffer.getvalue())
    return "\n".join((*_lines(found, options.threshold), f"drawn in {without_secrets(options.output)}"))


def _lines(found: Found, threshold: float) -> list[str]:
    if not found.phrases:
        return [f"nothing scores above {threshold:g}; a lower --threshold shows what is less certain"]
    rows = zip(found.phrases, found.scores.tolist(), found.boxes.round().long().tolist(), strict=True)
    return [f"{phrase}  {score:.2f}  {' '.join(map(str, box))}" for phrase, score, box in rows]


def _picture(place: str) -> np.ndarray:
    """A picture upright, uint8 RGB (H, W, 3)."""
    try:
        color: Any = eight_bits(read_picture(read_bytes(place), MOST_PIXELS).color)
    except BadRow as error:
        raise UserError(f"{without_secrets(place)}: {error}") from None
    return np.ascontiguousarray(np.broadcast_to(color, (*color.shape[:2], 3)))
