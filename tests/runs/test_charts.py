"""Curves as SVG: axes, thinning, and texts that may hold anything."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyzo.runs.charts import (
    Axis,
    Chart,
    Line,
    Point,
    extremes,
    figure,
    last_ones,
    means,
    safe,
    tick,
)

NUMBERS = st.floats(-1e12, 1e12)
POINTS = st.lists(st.builds(Point, NUMBERS, NUMBERS), max_size=50)


def chart(*lines: Line, **more: object) -> Chart:
    return Chart("Loss", "of steps", "passes", "loss", lines, **more)


def svg(text: str) -> ElementTree.Element:
    """The one SVG of a figure, that XML can read."""
    (found,) = re.findall(r"<svg viewBox=\"0 0 4.*?</svg>(?=</figure>)", text, re.DOTALL)
    return ElementTree.fromstring(found)


def test_a_curve_goes_where_its_points_are():
    line = Line("a", [Point(0, 0), Point(50, 1), Point(100, 0.5)], 0)
    drawn = svg(figure(chart(line, from_zero=True), 3))
    (path,) = (p.get("d") for p in drawn.iter("path") if p.get("class") == "line")
    places = [tuple(map(float, pair.split())) for pair in path[1:].split("L")]
    (x0, y0), (x1, y1), (x2, y2) = places
    assert (x0, y0) == (50, 210)  # the corner of the axes
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and y0 - y2 == pytest.approx(y2 - y1, abs=0.2)
    assert len(list(drawn.iter("circle"))) == 3
    assert [drawn.find("title").text, drawn.get("role")] == ["Loss", "img"]
    assert drawn.get("aria-labelledby") == "t3 d3"
    assert drawn.find("desc").text == (
        "loss against passes. a: 0 at first, 0.5 at last, from 0 to 1."
    )


def test_a_line_that_diverges_leaves_the_others_readable():
    near = Line("near", [Point(0, 1.0), Point(100, 0.5)], 0)
    far = Line("far", [Point(0, 1.0), Point(100, 90.0)], 1)
    text = figure(chart(near, far), 1)
    assert "of steps; far leaves the picture</span>" in text
    ticks = [float(label) for label in re.findall(r'text-anchor="end">([0-9.]+)</text>', text)]
    assert min(ticks) >= 0.5 and max(ticks) <= 1
    assert "far: 1 at first, 90 at last" in text
    alone = figure(chart(near, far._replace(points=[])), 1)
    assert "<bdi>near</bdi>" in alone and "<bdi>far</bdi>" not in alone
    for lines, more in ((far,), {}), ((near, far), {"from_zero": True}):
        text = figure(chart(*lines, **more), 1)
        assert "leaves the picture" not in text and ">80</text>" in text


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 800, [0, 200, 400, 600, 800]),
        (0.55, 0.66, [0.56, 0.58, 0.6, 0.62, 0.64, 0.66]),
        (-3e-9, 3e-9, [-3e-9, -2e-9, -1e-9, 0, 1e-9, 2e-9, 3e-9]),
        (0, 1e13, [0, 2e12, 4e12, 6e12, 8e12, 1e13]),
    ],
)
def test_ticks_are_round(low, high, ticks):
    assert Axis(low, high, 0, 100).ticks() == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1 + 0.2, "0.3"), (800, "800"), (20_000, "20k"), (-12_500, "-12.5k"), (3e13, "3e+13")],
)
def test_numbers_of_an_axis(value, text):
    assert tick(value) == text


def test_there_is_nothing_to_draw_without_a_number():
    nothing = Line("a", [Point(1, math.nan), Point(math.inf, 1)], 0)
    faint = Line("a", [Point(1, 1)], 0, is_faint=True)
    assert figure(chart(), 1) == figure(chart(nothing), 1) == figure(chart(faint), 1) == ""


def test_many_lines_have_a_legend_and_looks_of_their_own():
    lines = [Line(f"run {n}", [Point(0, n), Point(1, n)], n) for n in range(20)]
    text = figure(chart(*lines), 1)
    assert text.count('class="entry"') == 20
    assert {"c0 r0", "c5 r0", "c0 r1", "c5 r1", "c0 r2"} <= set(re.findall(r"c\d r\d", text))


def test_peaks_of_what_is_behind_a_mean_do_not_stretch_the_axis():
    behind = Line("a", [Point(n, 1000.0 if n == 50 else n % 2) for n in range(100)], 0, True)
    mean = Line("a", [Point(0, 0.5), Point(99, 0.5)], 0)
    ticks = [e.text for e in svg(figure(chart(behind, mean), 1)).iter("text")]
    assert "1" in ticks and "1000" not in ticks


HOSTILE = "</title><script>alert(1)</script>\"'&\0\u202e\x1b[31m\ud800"


def test_names_of_any_letters():
    line = Line(HOSTILE, [Point(0, 1), Point(1, 2)], 0)
    text = figure(Chart(HOSTILE, HOSTILE, HOSTILE, HOSTILE, [line, line]), 1)
    assert "<script" not in text and text.replace("\n", "").isprintable()
    svg(text)
    text.encode()
    assert safe(HOSTILE) == (
        "&lt;/title&gt;&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;"
        "\\x00\\u202e\\x1b[31m\\ud800"
    )


@given(POINTS, POINTS)
def test_whatever_the_numbers_are_it_is_a_picture(first, second):
    lines = (Line("a", first, 0), Line("b", second, 1, is_faint=True))
    text = figure(chart(*lines), 1)
    if first:
        drawn = svg(text)
        assert "nan" not in text and "inf" not in text
        assert len(list(drawn.iter("text"))) < 60


@given(POINTS, st.integers(2, 20))
def test_fewer_points(points, most):
    for thin in (means, extremes, last_ones):
        found = thin(points, most)
        assert len(found) <= most and bool(found) == bool(points)
    if points:
        kept = [point.y for point in extremes(points, most)]
        assert (min(kept), max(kept)) == (min(p.y for p in points), max(p.y for p in points))
        assert last_ones(points, most)[-1] == points[-1]
    assert means(points, 50) == points
