"""Figures of every picture of an evaluation, as a CSV file and as a page of Markdown."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

EXTREMES = 5  # pictures that the page names at either end
MOST_LETTERS = 60  # of a key on the page
FORMULA = ("=", "+", "-", "@")  # a spreadsheet would compute what begins so


@dataclass(frozen=True)
class PictureTable:
    """One line per picture, in the order of the evaluation set.

    Args:
        ordinals: in the evaluation set.
        rows: within their shards.
        keys: untrusted.
        measures: name -> a figure per picture; the first one decides which picture is worse, by lower figures.
    """

    ordinals: Sequence[int]
    rows: Sequence[int]
    shards: Sequence[str]
    keys: Sequence[str]
    measures: Mapping[str, Sequence[float]]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def first(self) -> str:
        """Name of the first measure."""
        return next(iter(self.measures))

    def order(self) -> list[int]:
        """Places of all pictures, worst first; of equal ones the earlier."""
        figures = self.measures[self.first]
        return sorted(range(len(self)), key=lambda place: (figures[place], place))


def to_csv(table: PictureTable) -> bytes:
    """Columns row, shard, key and every measure, figures to the last bit.

    A key that a spreadsheet would take for a formula has an apostrophe before it.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("row", "shard", "key", *table.measures))
    for row, shard, key, *figures in zip(table.rows, table.shards, table.keys, *table.measures.values(), strict=True):
        writer.writerow((row, _inert(shard), _inert(key), *map(repr, figures)))
    return buffer.getvalue().encode("utf-8", "backslashreplace")


def _inert(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text


def to_markdown(
    title: str, facts: Sequence[str], table: PictureTable, panels: Sequence[str], missing: Mapping[str, str]
) -> bytes:
    """The page: figures of the whole set, pictures at both ends, what was not computed and why.

    Args:
        facts: lines on what was evaluated, on what.
        panels: paths of drawings of the worst pictures, relative to the page.
        missing: measure -> why there is none.
    """
    order = table.order()
    lines = [f"# {title}", "", *(f"* {fact}" for fact in facts), ""]
    lines += [f"| measure over {len(table)} pictures | mean | median | lowest | highest |", "|---|---|---|---|---|"]
    for name, values in table.measures.items():
        figures = (statistics.fmean(values), statistics.median(values), min(values), max(values))
        lines.append(f"| {name} | {' | '.join(shown(name, one) for one in figures)} |")
    lines += ["", f"## Worst by {table.first}", "", *_named(table, order[:EXTREMES])]
    for place, panel in enumerate(panels):
        lines += ["", f"![{place + 1}]({panel})"]
    lines += ["", f"## Best by {table.first}", "", *_named(table, order[::-1][:EXTREMES])]
    lines += ["", "## Not computed", "", *(f"* {name}: {why}" for name, why in missing.items()), ""]
    return "\n".join(lines).encode("utf-8", "backslashreplace")


def _named(table: PictureTable, places: Sequence[int]) -> list[str]:
    lines = [f"| shard | row | key | {' | '.join(table.measures)} |", "|---" * (3 + len(table.measures)) + "|"]
    for place in places:
        figures = " | ".join(shown(name, values[place]) for name, values in table.measures.items())
        lines.append(
            f"| {literal(table.shards[place])} | {table.rows[place]} | {literal(table.keys[place])} | {figures} |"
        )
    return lines


def shown(name: str, figure: float) -> str:
    """A figure as papers print it."""
    return f"{figure:.2f} dB" if name.startswith("psnr") else f"{figure:.4f}"


def literal(text: str) -> str:
    """Untrusted text that Markdown shows as it is, on one line, cut where it is long."""
    plain = "".join(one if one.isprintable() else "�" for one in text)
    cut = plain if len(plain) <= MOST_LETTERS else plain[: MOST_LETTERS - 1] + "…"
    return "`" + cut.replace("`", "'").replace("|", "\\|") + "`"
