"""Headers of tar archives: ustar, GNU and pax, as bytes without any trust in them."""

from __future__ import annotations

from typing import NamedTuple

BLOCK = 512
_ZEROS = bytes(BLOCK)
_WITHOUT_DATA = b"123456"  # links, devices, folders, pipes


class TarError(Exception):
    """An archive that is not what its headers say, with the offset of the header in doubt."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


class Header(NamedTuple):
    """One header block: name, bytes of data that follow, type flag (one byte)."""

    name: str
    size: int
    kind: bytes

    @property
    def has_data(self) -> bool:
        """False for kinds whose size field does not mean data that follow."""
        return self.kind not in _WITHOUT_DATA


def padded(size: int) -> int:
    """Bytes that `size` bytes of data take in an archive."""
    return (size + BLOCK - 1) // BLOCK * BLOCK


def parse_header(block: bytes, offset: int) -> Header | None:
    """Read one block of 512 bytes; None for the zeros that end an archive.

    Raises:
        TarError: the checksum or the size does not hold.
    """
    if block == _ZEROS:
        return None
    stored = _number(block[148:156], offset)
    unsigned = sum(block) - sum(block[148:156]) + 8 * 32
    if stored != unsigned and stored != unsigned - 256 * _negative(block):
        raise TarError("this is no tar header", offset)
    size = _number(block[124:136], offset)
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:  # GNU headers use these bytes for other things
        name = f"{_text(block[345:500])}/{name}"
    return Header(name, size, block[156:157])


def _negative(block: bytes) -> int:
    """Bytes that count as negative in the sums of old writers, the checksum's own field aside."""
    return sum(byte > 127 for byte in block[:148] + block[156:])


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _number(field: bytes, offset: int) -> int:
    """Octal digits, or GNU's base 256 for what does not fit."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    if digits.isdigit():  # `int` alone would take signs and underscores
        try:
            return int(digits, 8)
        except ValueError:
            pass
    raise TarError("this is no tar header", offset)


def parse_pax(data: bytes, offset: int) -> dict[str, str]:
    """The records `LENGTH KEY=VALUE\\n` of an extended header.

    Raises:
        TarError: a record does not end where it says.
    """
    records: dict[str, str] = {}
    place = 0
    while place < len(data) and data[place]:
        space = data.find(b" ", place, place + 20)
        digits = data[place:space] if space > 0 else b""
        length = int(digits) if digits.isdigit() else 0
        record = data[space + 1 : place + length]
        if length <= space + 1 - place or place + length > len(data) or not record.endswith(b"\n"):
            raise TarError("a broken extended header", offset)
        key, equals, value = record[:-1].partition(b"=")
        if not equals:
            raise TarError("a broken extended header", offset)
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        place += length
    return records
