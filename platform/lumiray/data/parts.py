"""Names of parts after the WebDataset convention, and what is in them (DESIGN, "Records")."""

from __future__ import annotations

import json
from collections.abc import Mapping

from lumiray.system import BadRow

PICTURES = ("jpg", "jpeg", "png", "webp", "avif", "tif", "tiff", "bmp", "gif")
PAIR = ("lq", "gt")
"""Parts of a pair: degraded, as it should be; in a paired tree of folders the names of both."""
_MAGIC = {
    b"\xff\xd8\xff": "jpg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"II*\0": "tif",
    b"MM\0*": "tif",
}


def pictures_in(parts: Mapping[str, bytes]) -> list[str]:
    """Names of all parts that are pictures (`jpg`, `lq.png`), in the order of the row."""
    return [name for name in parts if name.rpartition(".")[2] in PICTURES]


def picture_kind(data: bytes) -> str | None:
    """The part name that the first bytes of a picture speak for."""
    for magic, name in _MAGIC.items():
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return "avif" if data[4:12] in (b"ftypavif", b"ftypavis") else None


def caption_in(parts: Mapping[str, bytes]) -> str | None:
    """The caption of a row: its text, or the field `caption` of its JSON; None if it has neither.

    Raises:
        BadRow: the text is not UTF-8, or the JSON is none.
    """
    try:
        if "txt" in parts:
            return parts["txt"].decode("utf-8")
        if "json" in parts:
            value = json.loads(parts["json"])
            caption = value.get("caption") if isinstance(value, dict) else None
            return caption if isinstance(caption, str) else None
    except UnicodeDecodeError:
        raise BadRow("the text is not UTF-8") from None
    except (ValueError, RecursionError):  # thousands of brackets
        raise BadRow("the JSON cannot be read") from None
    return None
