"""Charts say the right numbers: where points lie, what the axes say, what is left out, and nothing unescaped."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from lumiray.evaluate.chart import HEIGHT, WIDTH, Line, line_chart, short_number, thinned, ticks


def drawn(svg: str) -> ElementTree.Element:
    """The SVG of a chart, read as XML: it must be whole."""
    return ElementTree.fromstring(svg.partition("</svg>")[0] + "</svg>")


def places(svg: str) -> list[list[tuple[float, float]]]:
    lines = drawn(svg).findall("polyline")
    return [[tuple(map(float, pair.split(","))) for pair in line.get("points", "").split()] for line in lines]


def test_points_lie_between_the_ticks_that_enclose_them() -> None:
    svg = line_chart([Line("loss", [(100, 1.0), (200, 3.0), (300, 2.0)])], "step")
    (points,) = places(svg)
    grid = {float(one.get("y1", "")): None for one in drawn(svg).findall("line")}
    labels = [one.text for one in drawn(svg).findall("text") if one.get("text-anchor") == "end"]
    heights = dict(zip(map(float, labels[:-1]), grid, strict=True))  # the last one is the axis' name
    assert labels[-1] == "step"
    assert [y for _, y in points] == [heights[1.0], heights[3.0], heights[2.0]]
    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0], abs=0.11)


@settings(max_examples=60, deadline=None)
@given(
    some.lists(
        some.tuples(some.floats(-1e9, 1e9), some.floats(-1e6, 1e6) | some.sampled_from([math.nan, math.inf])),
        max_size=30,
    ),
    some.booleans(),
)
def test_whatever_is_drawn_stays_inside_the_picture(points: list[tuple[float, float]], from_zero: bool) -> None:
    svg = line_chart([Line("x", points)], "step", from_zero=from_zero)
    if not any(math.isfinite(y) for _, y in points):
        assert svg.startswith("<p")
        return
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for line in places(svg) for x, y in line)


def test_losses_that_were_not_numbers_are_left_out() -> None:
    svg = line_chart([Line("loss", [(1, 2.0), (2, math.nan), (3, None), (4, 1.0)])], "step")  # type: ignore[list-item]
    assert [len(line) for line in places(svg)] == [2]
    assert "nan" not in svg.lower()


def test_nothing_to_draw_is_a_sentence() -> None:
    assert line_chart([Line("a", []), Line("b", [(1, math.nan)])], "step").startswith("<p")
    assert line_chart([], "step").startswith("<p")


def test_lines_have_a_key_only_where_there_are_several_and_lines_without_points_have_none() -> None:
    points = [(1, 0.2), (2, 0.3)]
    assert "keys" not in line_chart([Line("a", points), Line("empty", [])], "step")
    several = line_chart([Line("a", points), Line("b", points)], "step")
    assert several.count('class="key ') == 2


def test_names_are_escaped() -> None:
    svg = line_chart([Line('<b>"a"', [(1, 1)]), Line("<script>", [(1, 2)])], "<i>")
    assert "<b>" not in svg and "<script>" not in svg and "<i>" not in svg
    assert drawn(svg).get("aria-label") == '<b>"a", <script>'


def test_shares_are_written_as_per_cent() -> None:
    svg = line_chart([Line("recall", [(1, 0.1), (2, 0.93)])], "step", percent=True)
    assert "100%" in svg and "20%" in svg


@pytest.mark.parametrize("magnitude", [1e-9, 3e-4, 0.07, 1.0, 47.0, 2.2e3, 8.8e5, 4e8])
def test_no_label_of_an_axis_is_longer_than_its_place(magnitude: float) -> None:
    for tick in ticks(0, magnitude):
        assert len(short_number(tick)) <= 6
        written = short_number(tick)
        unit = {"k": 1e3, "M": 1e6, "G": 1e9}.get(written[-1])
        value = float(written[:-1]) * unit if unit else float(written)
        assert value == pytest.approx(tick, rel=1e-3)


@settings(max_examples=100, deadline=None)
@given(low=some.floats(-1e6, 1e6), width=some.floats(0, 1e6))
def test_ticks_are_round_evenly_spaced_and_cover_the_values(low: float, width: float) -> None:
    found = ticks(low, low + width)
    assert 2 <= len(found) <= 8
    steps = [right - left for left, right in pairwise(found)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-6, abs=1e-9)
    tolerance = 1e-6 * steps[0]
    assert found[0] <= low + tolerance and found[-1] >= low + width - tolerance


def test_a_long_run_is_drawn_with_few_points_and_no_peak_is_lost() -> None:
    heights = [50 + math.sin(number / 700) for number in range(40_000)]
    heights[12_345], heights[33_333] = 0.0, 100.0
    points = [(number / 100, height) for number, height in enumerate(heights)]
    kept = thinned(points)
    assert len(kept) < 2_000
    assert kept[0] == points[0] and kept[-1] == points[-1]
    assert points[12_345] in kept and points[33_333] in kept
    assert list(kept) == sorted(kept)
    assert thinned(points[:300]) == points[:300]
