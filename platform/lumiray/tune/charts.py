"""Charts of a study as inline SVG: small, sharp, readable in light and dark, no script.

Trials that are done are drawn in colour, those that were stopped in grey, the best one stands out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from lumiray.evaluate.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, short_number, ticks
from lumiray.tune.study import Trial

NOTHING = '<p class="none">Nothing was recorded for this chart yet.</p>'
WIDE, TALL = 1160, 320  # of parallel coordinates, which take a whole line
ROW = 26  # height of a bar


@dataclass(frozen=True)
class Scale:
    """Where values lie between 0 and 1: numbers, their logarithms, or words in their order.

    Args:
        ends: smallest and largest number; None for words.
        words: what is not a number, or a choice of few values.
    """

    ends: tuple[float, float] | None
    log: bool = False
    words: tuple[str, ...] = ()

    def at(self, value: Any) -> float:
        """The place of a value in [0, 1]."""
        if self.ends is None:
            place = self.words.index(_word(value))
            return 0.5 if len(self.words) < 2 else place / (len(self.words) - 1)
        low, high, number = *self.ends, float(value)
        if self.log:
            low, high, number = math.log(low), math.log(high), math.log(number)
        return 0.5 if high <= low else (number - low) / (high - low)

    def marks(self) -> list[tuple[float, str]]:
        """(place, text) of what is written at the axis."""
        if self.ends is None:
            return [(self.at_word(one), one) for one in self.words]
        low, high = self.ends
        middle = math.sqrt(low * high) if self.log else (low + high) / 2
        return [(self.at(value), short_number(value)) for value in dict.fromkeys((low, middle, high))]

    def at_word(self, word: str) -> float:
        """The place of one of the words."""
        return 0.5 if len(self.words) < 2 else self.words.index(word) / (len(self.words) - 1)


def scale_of(values: Sequence[Any], described: str) -> Scale:
    """The scale of a field, from the values that it took and what the space says of it."""
    numbers = [one for one in values if isinstance(one, (int, float)) and not isinstance(one, bool)]
    if described.startswith("choice") or len(numbers) < len(values):
        return Scale(None, words=tuple(sorted({_word(one) for one in values})))
    return Scale((min(numbers), max(numbers)), log=described.startswith("log"))


def _word(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def look(trial: Trial, best: Trial | None) -> str:
    """The class that says how a trial is drawn."""
    return "best" if best is not None and trial.number == best.number else trial.state


def ordered(trials: Sequence[Trial], best: Trial | None) -> list[Trial]:
    """Trials in the order of drawing: the best one last, so that it lies on top."""
    rank = {"failed": 0, "stopped": 1, "running": 2, "done": 3, "best": 4}
    return sorted(trials, key=lambda one: (rank[look(one, best)], one.number))


def curves(trials: Sequence[Trial], best: Trial | None) -> str:
    """The metric over steps, a line per trial."""
    shown = [one for one in ordered(trials, best) if one.curve]
    points = {one.number: one.curve for one in shown}
    lines = [(points[one.number], look(one, best), _title(one)) for one in shown]
    return _xy(lines, "step")


def cost(trials: Sequence[Trial], best: Trial | None, better: Callable[[float, float], float]) -> str:
    """The metric of each trial that is done against the hours of all trials up to it, and the best so far."""
    hours, so_far = 0.0, None
    points, line = [], []
    for one in trials:
        hours += float(one.notes.get("seconds", 0.0)) / 3600
        if one.value is None:
            continue
        so_far = one.value if so_far is None else better(so_far, one.value)
        points.append(([(hours, one.value)], look(one, best), _title(one)))
        line.append((hours, so_far))
    return _xy([(line, "running", "best so far"), *points] if line else [], "hours of all trials")


def front_chart(trials: Sequence[Trial], front: Sequence[Trial], other: int, name: str) -> str:
    """The first metric of trials that are done against another one; the front stands out, joined by a line."""
    points = [
        ([(one.figures[other], one.figures[0])], "best" if one in front else "done", _title(one))
        for one in trials
        if one.figures
    ]
    line = sorted((one.figures[other], one.figures[0]) for one in front)
    return _xy([*([(line, "running", "front")] if len(line) > 1 else []), *points] if points else [], name)


def _xy(lines: Sequence[tuple[Sequence[tuple[float, float]], str, str]], x_name: str) -> str:
    """Lines of (points, class, title) over common axes; a single point is a dot."""
    places = [point for points, _, _ in lines for point in points]
    if not places:
        return NOTHING
    xs, ys = [x for x, _ in places], sorted(y for _, y in places)
    y_ticks = ticks(ys[0], ys[-1])
    low_x, high_x = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + (x - low_x) / (high_x - low_x) * (WIDTH - LEFT - RIGHT), _height(y, y_ticks)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(x_name)}">']
    parts += _levels(y_ticks)
    for tick in ticks(low_x, high_x):
        x = place(tick, y_ticks[0])[0]
        if low_x <= tick <= high_x and x < WIDTH - RIGHT - 9 * len(x_name):  # the axis' name stands at its end
            text = short_number(tick)
            parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{text}</text>')
    parts.append(f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 10}" text-anchor="end">{escape(x_name)}</text>')
    for points, kind, title in lines:
        drawn = [place(x, y) for x, y in points]
        name = f"<title>{escape(title)}</title>"
        if len(drawn) == 1:
            parts.append(
                f'<circle class="dot {kind}" cx="{drawn[0][0]:.1f}" cy="{drawn[0][1]:.1f}" r="3">{name}</circle>'
            )
        else:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn)
            parts.append(f'<polyline class="line {kind}" points="{path}">{name}</polyline>')
    return "".join([*parts, "</svg>"])


def _height(value: float, y_ticks: Sequence[float]) -> float:
    return TOP + (y_ticks[-1] - value) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - TOP - BOTTOM)


def _levels(y_ticks: Sequence[float]) -> Iterator[str]:
    """The level lines of a chart with what they stand for."""
    for tick in y_ticks:
        y = _height(tick, y_ticks)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{short_number(tick)}</text>'


def slices(trials: Sequence[Trial], best: Trial | None, field: str, described: str) -> str:
    """The metric of trials that are done against one field."""
    shown = [one for one in ordered(trials, best) if one.value is not None and field in one.values]
    if not shown:
        return NOTHING
    scale = scale_of([one.values[field] for one in shown], described)
    y_ticks = ticks(min(one.value or 0.0 for one in shown), max(one.value or 0.0 for one in shown))
    inner = WIDTH - LEFT - RIGHT - 20
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(field)}">']

    parts += _levels(y_ticks)
    for at, text in scale.marks():
        x = LEFT + 10 + at * inner
        anchor = "start" if at < 0.1 else "end" if at > 0.9 else "middle"
        parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 10}" text-anchor="{anchor}">{escape(text)}</text>')
    for one in shown:
        x, y = LEFT + 10 + scale.at(one.values[field]) * inner, _height(one.value or 0.0, y_ticks)
        name = f"<title>{escape(_title(one))}</title>"
        parts.append(f'<circle class="dot {look(one, best)}" cx="{x:.1f}" cy="{y:.1f}" r="4">{name}</circle>')
    return "".join([*parts, "</svg>"])


def parallel(trials: Sequence[Trial], best: Trial | None, fields: Mapping[str, str], metric: str) -> str:
    """Parallel coordinates: an upright axis per field, the metric last, and a line per trial across them.

    Args:
        fields: what the space says of each.
    """
    shown = [one for one in ordered(trials, best) if one.last is not None]
    if not shown:
        return NOTHING
    used = [field for field in fields if any(field in one.values for one in shown)]
    scales = {field: scale_of([o.values[field] for o in shown if field in o.values], fields[field]) for field in used}
    scales[metric] = scale_of([one.last for one in shown], "uniform")
    step = (WIDE - 160) / max(1, len(scales) - 1)
    across = {name: 80 + number * step for number, name in enumerate(scales)}
    top, bottom = 34, TALL - 12
    parts = [f'<svg viewBox="0 0 {WIDE} {TALL}" role="img" aria-label="parallel coordinates">']
    for one in shown:
        values = {**one.values, metric: one.last}
        points = [
            (across[name], bottom - scales[name].at(values[name]) * (bottom - top)) for name in scales if name in values
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(
            f'<polyline class="line {look(one, best)}" points="{path}"><title>{escape(_title(one))}</title></polyline>'
        )
    for name, scale in scales.items():
        x = across[name]
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text class="name" x="{x:.1f}" y="16" text-anchor="middle">{escape(name)}</text>')
        for at, text in scale.marks():
            y = bottom - at * (bottom - top) + 4
            parts.append(f'<text class="tick" x="{x + 6:.1f}" y="{y:.1f}">{escape(text)}</text>')
    return "".join([*parts, "</svg>"])


def bars(shares: Mapping[str, float]) -> str:
    """Shares by name, as bars."""
    if not shares:
        return '<p class="none">Too few trials are done to say it.</p>'
    height = ROW * len(shares) + 8
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="importance">']
    for number, (name, share) in enumerate(shares.items()):
        y = 4 + number * ROW
        parts.append(f'<rect class="bar" x="150" y="{y}" width="{max(1.0, 200 * share):.1f}" height="16" rx="3"/>')
        parts.append(f'<text class="tick" x="142" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<text class="tick" x="{158 + 200 * share:.1f}" y="{y + 13}">{share:.0%}</text>')
    return "".join([*parts, "</svg>"])


def _title(one: Trial) -> str:
    values = ", ".join(f"{name} {_word(value)}" for name, value in one.values.items())
    return f"trial {one.number}, {one.state}: {'-' if one.last is None else short_number(one.last)} ({values})"
