"""A page with a few pictures before, after, and their difference, that needs no server and no other file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lumiray.data.picture_file import MOST_PIXELS, Picture, encoded, read_picture
from lumiray.evaluate.page import page
from lumiray.evaluate.picture_folder import Place
from lumiray.storage import NotThere, base_name, read_bytes, write_atomically

MOST = 6  # pictures on a page
WIDTH = 640  # pixels of a picture on it


@dataclass(frozen=True)
class Compared:
    """One picture: its name and size, three JPEG files in base64, and what changed.

    Args:
        change: mean absolute difference in levels of 255.
        gain: by how much the shown difference is multiplied.
    """

    name: str
    width: int
    height: int
    before: str
    after: str
    difference: str
    change: float
    gain: float


def write_comparison(url: str, title: str, words: str, places: Sequence[Place]) -> str:
    """Write the page for the first pictures that have a result; returns a line that says where.

    Args:
        url: of the page, local or s3://.
        words: how the results were made.
    """
    pictures: list[Compared] = []
    for place, result in places:
        if len(pictures) == MOST:
            break
        try:
            before, after = (read_picture(read_bytes(one), MOST_PIXELS) for one in (place, result))
        except (NotThere, ValueError):  # left out, or broken since
            continue
        if before.color.shape[:2] == after.color.shape[:2]:  # else the input is another picture by now
            pictures.append(compared(base_name(place), before, after))
    write_atomically(url, page("compare.html.jinja", title=title, words=words, pictures=pictures))
    return f"{len(pictures)} pictures compared in {url}"


def compared(name: str, before: Picture, after: Picture) -> Compared:
    """Both pictures of one size, made small, and the difference of the small ones."""
    height, width = before.color.shape[:2]
    one, other = _small(before), _small(after)
    apart = np.abs(one.astype(np.float64) - other).mean(axis=2)
    gain = 255 / max(1.0, float(np.percentile(apart, 99)))  # the largest is white, but for single pixels
    shown = (apart * gain).clip(0, 255).astype(np.uint8)[..., None]
    files = [Picture(one, None, _rgb_profile(before)), Picture(other, None, _rgb_profile(after)), Picture(shown)]
    texts = [base64.b64encode(encoded(file, "jpeg")).decode() for file in files]
    return Compared(name, width, height, texts[0], texts[1], texts[2], float(apart.mean()), gain)


def _small(picture: Picture) -> np.ndarray:
    """uint8 (h, w, 3), w at most WIDTH."""
    from lumiray.data.picture import resize

    color = picture.color
    if color.dtype == np.uint16:
        color = (color >> 8).astype(np.uint8)
    color = np.ascontiguousarray(np.broadcast_to(color, (*color.shape[:2], 3)))
    height, width = color.shape[:2]
    scale = min(1.0, WIDTH / width)
    return resize(color, max(1, round(height * scale)), max(1, round(width * scale)))


def _rgb_profile(picture: Picture) -> bytes | None:
    """The profile, if it is one of RGB: on the page grey pictures have three channels, too."""
    return picture.profile if picture.color.shape[2] == 3 else None
