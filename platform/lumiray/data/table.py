"""Tables of pictures with captions, as people have them: CSV, TSV, Parquet, JSON lines.

Columns are found by their usual names; paths are relative to the table itself.  Rows are read as they are needed,
never all at once.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lumiray import storage
from lumiray.errors import UserError
from lumiray.storage import Entry, without_secrets

IMAGE_COLUMNS = ("filepath", "image", "path", "image_path", "file_name", "url")
CAPTION_COLUMNS = ("title", "caption", "text")
_LONGEST_FIELD = 16 << 20


@dataclass(frozen=True)
class Listed:
    """One row of a table or folder (`folder.folder_rows`).

    Args:
        where: for messages, such as `photos.csv, row 17`.
        pictures: address of each picture by its role in the row, "" for the only one, `lq` and `gt` for a pair;
            an empty address where there is none.
        caption: its caption; None if it has none.
        more: the other columns.
        json: a JSON file that lies beside the picture and is taken as it is.
        entries: what a listing has said of the pictures already, by role.
    """

    where: str
    pictures: Mapping[str, str]
    caption: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    json: bytes | None = None
    entries: Mapping[str, Entry] = field(default_factory=dict)


def table_rows(source: str) -> Iterator[Listed]:
    """Rows of a table, in its order.

    Raises:
        UserError: it is not there, of no known kind, or has no column of pictures or captions.
    """
    kind = storage.base_name(source).lower().rpartition(".")[2]
    readers = {
        "csv": _separated,
        "tsv": _separated,
        "txt": _separated,
        "parquet": _parquet,
        "jsonl": json_lines,
        "ndjson": json_lines,
    }
    if not storage.exists(source):
        raise UserError(f"There is no table or folder {without_secrets(source)}. Check the path.")
    if kind not in readers:
        raise UserError(
            f"{without_secrets(source)} is no table that can be read: give a .csv, .tsv, .parquet or .jsonl file, "
            "or a folder of pictures with .txt files beside them."
        )
    columns: tuple[str, str] | None = None
    folder = storage.parent(source)
    for number, values in enumerate(readers[kind](source), start=1):
        columns = columns or _columns(list(values), source)
        where = f"{storage.base_name(source)}, row {number}"
        yield _row(values, columns, folder, where)
    if columns is None:
        raise UserError(f"{without_secrets(source)} holds no rows.")


def _row(values: Mapping[str, Any], columns: tuple[str, str], folder: str, where: str) -> Listed:
    picture, caption = values.get(columns[0]), values.get(columns[1])
    address = "" if picture is None else picture_address(str(picture), folder, where)
    more = {name: value for name, value in values.items() if name not in columns and name is not None}
    return Listed(where, {"": address}, None if caption is None else str(caption), more)


def picture_address(name: str, folder: str, where: str) -> str:
    """Where a picture lies that a row names; a path that is relative is so to the folder.

    Args:
        name: a path or an address; nothing where the row names none.
        where: the row, for messages.

    Raises:
        UserError: it lies on the web.
    """
    if name.startswith(("http://", "https://")):
        raise UserError(
            f"{where}: {without_secrets(name)[:200]} lies on the web, and nothing is fetched from there. Fetch the "
            "pictures first (img2dataset writes shards at once), or give paths."
        )
    return name if not name or "://" in name or os.path.isabs(name) else storage.join(folder, name)


def _columns(names: list[str], source: str) -> tuple[str, str]:
    """The columns that hold pictures and captions, by their usual names."""
    lowered = {str(name).strip().lower(): name for name in reversed(names)}
    found = []
    for what, known in (("pictures", IMAGE_COLUMNS), ("captions", CAPTION_COLUMNS)):
        column = next((lowered[name] for name in known if name in lowered), None)
        if column is None:
            raise UserError(
                f"{without_secrets(source)} has no column of {what}: it has {', '.join(map(str, names))}; "
                f"name one of them {' or '.join(known)}."
            )
        found.append(column)
    return found[0], found[1]


def _separated(source: str) -> Iterator[dict[str, Any]]:
    """Comma or tab, by the header: open_clip's .csv files are separated by tabs."""
    csv.field_size_limit(_LONGEST_FIELD)
    with storage.open_url(source, "r") as file:
        header = file.readline().lstrip("\ufeff")
        separator = "\t" if "\t" in header else ","
        names = next(csv.reader([header], delimiter=separator), [])
        try:
            for number, values in enumerate(csv.reader(file, delimiter=separator), start=1):
                if not values:
                    continue
                if len(values) != len(names):
                    raise UserError(
                        f"{storage.base_name(source)}, row {number} has {len(values)} fields, the header has "
                        f"{len(names)}: quote fields that hold the separator."
                    )
                yield dict(zip(names, values, strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{without_secrets(source)} cannot be read as UTF-8 text of columns: {error}.") from None


def json_lines(source: str) -> Iterator[dict[str, Any]]:
    """The objects of a file with one on each line; empty lines are left out.

    Raises:
        UserError: a line is no object.
    """
    with storage.open_url(source, "r") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except ValueError:
                values = None
            if not isinstance(values, dict):
                raise UserError(f"{storage.base_name(source)}, line {number} is no JSON object.")
            yield values


def _parquet(source: str) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with storage.open_url(source) as file:
        try:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=1024):
                yield from batch.to_pylist()
        except pa.ArrowInvalid as error:
            raise UserError(f"{without_secrets(source)} is no Parquet file: {str(error)[:200]}.") from None
