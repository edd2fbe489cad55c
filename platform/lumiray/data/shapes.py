"""Heights and widths of the pictures of a shard, from their headers: what `buckets` gathers rows by.

Of a row with several pictures the first one counts.  A camera's orientation tag is not followed, as in `decode`.
A shard on S3 is read by large pieces for it, as for its index; it is done once, and kept in the index.
"""

from __future__ import annotations

import numpy as np

from lumiray.data.decode import jpeg_frame, picture_size
from lumiray.data.fetch import Window, window_of
from lumiray.data.header import TarError
from lumiray.data.parts import PICTURES
from lumiray.data.tar import BadShard, Member, members, split_name
from lumiray.storage import without_secrets
from lumiray.system import BadRow

_HEAD = 64 << 10  # bytes that nearly every header ends in
_MOST_SIDE = 65535


def shapes_in(url: str, offsets: np.ndarray) -> np.ndarray:
    """Height and width of each row's picture.

    Args:
        offsets: first byte of each row, ascending, int64 (rows,).

    Returns:
        uint16 (rows, 2); zeros where there is no picture, or its header does not tell.

    Raises:
        lumiray.data.tar.BadShard: it cannot be read to its end.
    """
    try:
        return _walked(url, offsets)
    except TarError as error:
        raise BadShard(
            f"Shard {without_secrets(url)} cannot be read past byte {error.offset}: {error}. It has changed since it "
            "was indexed: fetch or write it again, or leave it out of --shards."
        ) from None


def _walked(url: str, offsets: np.ndarray) -> np.ndarray:
    shapes = np.zeros((len(offsets), 2), dtype=np.uint16)
    seen = np.zeros(len(offsets), dtype=bool)
    with window_of(url) as window:
        for member in members(window):
            named = None if member is None else split_name(member.name)
            if member is None or named is None or named[1].rpartition(".")[2] not in PICTURES:
                continue
            row = int(np.searchsorted(offsets, member.start, side="right")) - 1
            if row >= 0 and not seen[row]:
                seen[row] = True
                shapes[row] = _shape_of(window, member)
    return shapes


def _shape_of(window: Window, member: Member) -> tuple[int, int]:
    head = window.read(member.data, min(member.size, _HEAD))
    is_jpeg = head.startswith(b"\xff\xd8\xff")
    if not is_jpeg or jpeg_frame(head) is not None:
        try:
            return _told(head)
        except BadRow:
            pass  # the header is longer, or this format is only opened whole
    try:
        return _told(window.read(member.data, member.size)) if member.size > len(head) else (0, 0)
    except BadRow:
        return 0, 0


def _told(data: bytes) -> tuple[int, int]:
    height, width = picture_size(data)
    return (height, width) if max(height, width) <= _MOST_SIDE else (0, 0)
