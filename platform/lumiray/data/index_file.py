"""Files of the index: small Parquet files of a stated form, written whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Collection
from typing import Any, TypeVar, get_type_hints

from lumiray import storage
from lumiray.uncollected import uncollected

_Entry = TypeVar("_Entry")


def put_table(table: Any, url: str) -> None:
    """Write a `pyarrow.Table`."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    storage.write_atomically(url, buffer.getvalue())


def table_of(data: bytes) -> Any:
    """The table in a Parquet file, read by the calling thread.

    Arrow's own threads are not needed for files this small, and a process that ends while they start is aborted.
    """
    import pyarrow.parquet as pq

    return pq.ParquetFile(io.BytesIO(data), pre_buffer=False).read(use_threads=False)


def put_entries(entries: Collection[Any], kind: type, form: str, url: str) -> None:
    """Write dataclasses or named tuples of texts and whole numbers, a column for each field.

    Args:
        kind: their class.
        form: what the file says of itself.
    """
    import pyarrow as pa

    types = {str: pa.string(), int: pa.int64()}
    schema = pa.schema([(name, types[of]) for name, of in get_type_hints(kind).items()], metadata={"form": form})
    columns = [[getattr(entry, name) for entry in entries] for name in schema.names]
    put_table(pa.table(columns, schema=schema), url)


@uncollected
def entries_of(data: bytes, kind: type[_Entry], form: str) -> list[_Entry] | None:
    """What `put_entries` wrote; None for a file of another form, which is then made again."""
    import pyarrow as pa

    try:
        table = table_of(data)
    except pa.ArrowInvalid:
        return None
    if (table.schema.metadata or {}).get(b"form") != form.encode():
        return None
    columns = [table[name].to_numpy().tolist() for name in get_type_hints(kind)]  # `to_pylist` takes five times as long
    return list(map(kind, *columns))
