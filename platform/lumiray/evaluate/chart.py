"""Line charts as inline SVG: small, sharp, readable in light and dark, no script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 400, 190  # about what a card is wide, so that text keeps its size
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 12, 30


@dataclass(frozen=True)
class Line:
    """One curve: its name and (x, y) points; points whose y is not finite are left out."""

    name: str
    points: Sequence[tuple[float, float]]

    @property
    def finite(self) -> list[tuple[float, float]]:
        """Points that can be drawn."""
        return [(x, y) for x, y in self.points if y is not None and math.isfinite(y)]


def line_chart(lines: Sequence[Line], x_name: str, percent: bool = False, from_zero: bool = True) -> str:
    """An SVG of the lines over a common x axis, or a sentence if there is nothing to draw.

    Args:
        percent: y values in [0, 1] are written as per cent.
        from_zero: the y axis begins at 0.
    """
    drawn = [Line(line.name, line.finite) for line in lines if line.finite]
    if not drawn:
        return '<p class="none">Nothing was recorded for this chart.</p>'
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points]
    x_ticks = ticks(min(xs), max(xs))
    y_ticks = ticks(min(0.0, *ys) if from_zero else min(ys), max(ys))
    x_low, x_high = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        return across, TOP + (y_high - y) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(", ".join(x.name for x in drawn))}">']
    for tick in y_ticks:
        _, y = place(x_low, tick)
        text = f"{short_number(100 * tick)}%" if percent else short_number(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for tick in x_ticks:
        x, _ = place(tick, y_low)
        if x_low <= tick <= x_high and x < WIDTH - RIGHT - 70:  # the axis' name stands at its end
            text = short_number(tick)
            parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{text}</text>')
    parts.append(f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 10}" text-anchor="end">{escape(x_name)}</text>')
    for number, line in enumerate(drawn):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in thinned([place(*point) for point in line.points]))
        parts.append(f'<polyline class="line c{number % 6}" points="{path}"/>')
        if len(line.points) < 40:
            parts.extend(
                f'<circle class="dot c{number % 6}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>'
                for x, y in (place(*point) for point in line.points)
            )
    parts.append("</svg>")
    if len(drawn) > 1:
        names = "".join(f'<span class="key c{n % 6}">{escape(line.name)}</span>' for n, line in enumerate(drawn))
        parts.append(f'<div class="keys">{names}</div>')
    return "".join(parts)


def thinned(points: Sequence[tuple[float, float]], most: int = 2 * WIDTH) -> Sequence[tuple[float, float]]:
    """Points in pixels, in their order; where there are more than `most`, the extremes of each column of pixels."""
    if len(points) <= most:
        return points
    columns: dict[int, list[int]] = {}
    for number, (x, _) in enumerate(points):
        columns.setdefault(int(x), []).append(number)
    kept: set[int] = set()
    for numbers in columns.values():
        by_height = sorted(numbers, key=lambda number: points[number][1])
        kept |= {numbers[0], by_height[0], by_height[-1], numbers[-1]}
    return [points[number] for number in sorted(kept)]


def short_number(value: float) -> str:
    """A number in at most 6 signs or so: 0.001, 2.5e-5, 500, 12k, 1.5M."""
    size = abs(value)
    for least, unit, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if size >= least:
            return f"{value / unit:.4g}{letter}"
    if 0 < size < 1e-3:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:.4g}"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers that cover [low, high], of which there are at least two."""
    tiny = 1e-9 * max(abs(low), abs(high), 1e-12)  # values as near as this are one to floats and labels
    if high - low <= tiny:
        high = low + (abs(low) if abs(low) > tiny else 1.0)
    rough = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough)
    first = math.floor(low / step + 1e-9)
    return [float(f"{step * n:.12g}") for n in range(first, math.ceil(high / step - 1e-9) + 1)]
