"""Where the rows of a step lie: what a message about its loss names, so that someone can look at them."""

from __future__ import annotations

from lumiray.data.entries import StreamSpec

NAMED = 32  # rows of a step that are written out


def rows_of_step(stream: StreamSpec, step: int) -> str:
    """The rows of a global batch by shard, as in `00000.tar rows 3, 17; 00004.tar row 2`.

    They follow from the plan alone, so that no rank asks another; those that were replaced are said to be at
    their own time.
    """
    planned = stream.plan.batch(step)
    found: dict[str, list[int]] = {}
    for source, ordinal in list(zip(planned.source, planned.row, strict=True))[:NAMED]:
        shards = stream.sources[source]
        shard, within = shards.locate(ordinal)
        mixed = f"{stream.plan.sources[source].name}: " if len(stream.sources) > 1 else ""
        found.setdefault(mixed + shards.name_of(int(shard)), []).append(int(within))
    parts = [
        f"{name} row{'s' * (len(rows) > 1)} {', '.join(map(str, sorted(rows)))}" for name, rows in sorted(found.items())
    ]
    more = len(planned) - NAMED
    return "; ".join(parts) + (f" and {more} more" if more > 0 else "")
