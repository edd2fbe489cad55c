"""What a set of shards holds, in counts and from a sample of rows: `lumiray shards info PATTERNS`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lumiray.data.decode import decode
from lumiray.data.index import ShardSet
from lumiray.data.listing import expand
from lumiray.data.parts import caption_in, pictures_in
from lumiray.data.records import records_of
from lumiray.system import BadRow, Record, Row

_SAMPLE_ROWS = 256
_QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


@dataclass(frozen=True)
class ShardsReport:
    """Counts of a set of shards, and distributions over a sample of its rows.

    Args:
        shards, rows, bytes: of the whole set.
        rows_per_shard: smallest, 5 %, median, 95 %, largest.
        row_bytes: as stored, over the sampled rows; the same five values, as of all that follow.
        sample: number of rows looked at.
        extensions: part name -> sampled rows that have it.
        records: record type -> sampled rows that can serve it and whose pictures decode.
        caption_lengths: characters.
        picture_heights, picture_widths: pixels.
        problems: reasons why sampled rows cannot be used -> how many.
        digest: what identifies the set in a run (`ShardSet.digest`).
    """

    shards: int
    rows: int
    bytes: int
    rows_per_shard: tuple[int, ...]
    row_bytes: tuple[int, ...]
    sample: int
    extensions: dict[str, int]
    records: dict[Record, int]
    caption_lengths: tuple[int, ...]
    picture_heights: tuple[int, ...]
    picture_widths: tuple[int, ...]
    digest: str
    problems: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        shares = ", ".join(f".{name} {count / self.sample:.0%}" for name, count in self.extensions.items())
        served = ", ".join(
            f"{record}" if count == self.sample else f"{record} ({count} of {self.sample} rows)"
            for record, count in self.records.items()
        )
        lines = [
            f"shards           {self.shards}",
            f"rows             {self.rows}",
            f"size             {_size(self.bytes)}",
            f"digest           {self.digest}",
            "",
            f"                 {'least':>8} {'5 %':>8} {'median':>8} {'95 %':>8} {'most':>8}",
            f"rows per shard   {_five(self.rows_per_shard)}",
            f"bytes per row    {_five(self.row_bytes)}",
        ]
        for name, values in (
            ("caption length", self.caption_lengths),
            ("picture height", self.picture_heights),
            ("picture width", self.picture_widths),
        ):
            if values:
                lines.append(f"{name:<16} {_five(values)}")
        lines += ["", f"parts            {shares} (of {self.sample} sampled rows)"]
        lines += [f"serves           {served or 'nothing'}"]
        lines += [f"cannot be used   {count} of them: {reason}" for reason, count in self.problems.items()]
        return "\n".join(lines)


def describe(
    patterns: str | Sequence[str],
    scan_map: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]] = map,
) -> ShardsReport:
    """Count a set of shards (building its index where it is missing) and look at a sample of rows.

    Raises:
        UserError: as `ShardSet.open`.
    """
    return describe_shards(ShardSet.open(expand(patterns), scan_map=scan_map))


def describe_shards(shards: ShardSet) -> ShardsReport:
    """As `describe`, for shards that are open."""
    ordinals = sample_ordinals(shards.num_rows, _SAMPLE_ROWS)
    extensions: Counter[str] = Counter()
    records: Counter[Record] = Counter()
    problems: Counter[str] = Counter()
    captions: list[int] = []
    sizes: list[tuple[int, ...]] = []
    row_bytes: list[int] = []
    for row in shards.read(ordinals):
        try:
            if not isinstance(row, Row):
                raise row
            extensions.update(row.parts.keys())
            row_bytes.append(sum(len(data) for data in row.parts.values()))
            pictures = pictures_in(row.parts)
            if not pictures:
                raise BadRow("there is no picture")
            sizes.extend(decode(row.parts[part]).shape[:2] for part in pictures)
            caption = caption_in(row.parts)
            if caption is not None:
                captions.append(len(caption))
            records.update(records_of(row))
        except BadRow as error:
            problems[str(error)] += 1
    return ShardsReport(
        shards=len(shards),
        rows=shards.num_rows,
        bytes=int(shards.sizes.sum()),
        rows_per_shard=_spread(shards.rows_per_shard),
        row_bytes=_spread(row_bytes),
        sample=len(ordinals),
        extensions=dict(sorted(extensions.items(), key=lambda each: (-each[1], each[0]))),
        records={record: records[record] for record in Record if records[record]},
        caption_lengths=_spread(captions),
        picture_heights=_spread([height for height, _ in sizes]),
        picture_widths=_spread([width for _, width in sizes]),
        digest=shards.digest,
        problems=dict(problems.most_common()),
    )


def sample_ordinals(rows: int, count: int) -> np.ndarray:
    """At most `count` rows spread evenly over the set, the same every time; int64."""
    return np.unique(np.linspace(0, max(0, rows - 1), min(rows, count)).round().astype(np.int64))


def _spread(values: Sequence[int] | np.ndarray) -> tuple[int, ...]:
    if not len(values):
        return ()
    return tuple(int(value) for value in np.quantile(np.asarray(values), _QUANTILES, method="nearest"))


def _five(values: Sequence[int]) -> str:
    return " ".join(f"{value:>8}" for value in values)


def _size(count: int) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000  # type: ignore[assignment]
    return f"{count:.4g} TB"
