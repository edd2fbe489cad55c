"""One row to training pictures, with stored results where prompts are refined, or to a whole pair in evaluation.

The published loader changes a backlit picture, its results and a well-lit picture alike; rows of a shard are
independent, so a well-lit picture is changed in its own way here.  The results of a row are changed as its picture.
"""

from __future__ import annotations

import numpy as np

from lumiray.data.records import StoredPicture, image_of
from lumiray.system import BadRow, Row
from lumizoo.clip_lit.augment import ENHANCER_ZOOM, PROMPT_ZOOM, Augmentation

RESULT_PARTS = ("result1.png", "result2.png")  # older, newer


def prepare_picture(row: Row, size: int, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """A picture for the enhancer: `image`, uint8 RGB `(3, S, S)`, made square and changed at random.

    Args:
        row: a picture `.jpg`, `.png`, `.webp` or another.
        size: S.

    Raises:
        BadRow: it has no picture, or one that cannot be decoded.
    """
    return {"image": _changed(image_of(row), size, Augmentation.drawn(ENHANCER_ZOOM, draw))}


def prepare_for_prompts(row: Row, size: int, results: int, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """A picture for the prompts: `image`, uint8 RGB `(3, S, S)`, and `results` of earlier rounds, changed alike.

    Args:
        row: a picture; a backlit one has the first `results` of `RESULT_PARTS` too (`with_result` puts them there), a
            well-lit one has none.
        size: S.
        results: R, how many results are wanted; 0 leaves them out.

    Returns:
        `image`, and `results`, uint8 `(R, 3, S, S)`, older first: black where the row has none, and no loss reads them.

    Raises:
        BadRow: it has no picture, one that cannot be decoded, or some of the results and not all.
    """
    change = Augmentation.drawn(PROMPT_ZOOM, draw)
    picture = {"image": _changed(image_of(row), size, change)}
    if not results:
        return picture
    wanted = RESULT_PARTS[:results]
    missing = [part for part in wanted if part not in row.parts]
    if len(missing) == results:
        return picture | {"results": np.zeros((results, 3, size, size), np.uint8)}
    if missing:
        raise BadRow(f"the row has no {missing[0]}: this round reads {' and '.join(wanted)}")
    stored = [_changed(StoredPicture(part, row.parts[part]), size, change) for part in wanted]
    return picture | {"results": np.stack(stored)}


def _changed(stored: StoredPicture, size: int, change: Augmentation) -> np.ndarray:
    return np.ascontiguousarray(change(squared(stored.decoded(), size)).transpose(2, 0, 1))


def squared(picture: np.ndarray, size: int) -> np.ndarray:
    """uint8 `(H, W, 3)` to `(S, S, 3)`, sides stretched, by Lanczos' filter (card clip-lit, Data)."""
    from PIL import Image

    if picture.shape[:2] == (size, size):
        return picture
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS))
