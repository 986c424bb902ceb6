"""Curves as inline SVG: lines on axes, which need no script, and read well on a phone."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from statistics import median_low
from typing import NamedTuple

from tinyzo.errors import shown

WIDTH = 440.0  # units of an SVG, about the pixels of a phone: so its letters stay legible there
HEIGHT = 250.0
LEFT = 50.0
RIGHT = 14.0
TOP = 12.0
BOTTOM = 40.0
TICKS = 6  # at most about so many on an axis
MOST_DOTS = 20  # of a line that shows its points
COLOURS = 6
FAR = 20.0  # a line that goes so many times as high as others do leaves the picture
HIDDEN = 0.05  # the share of a faint line, at the top and at the bottom, that may be out of sight


class Point(NamedTuple):
    x: float
    y: float


class Line(NamedTuple):
    """A curve.

    name:     what the legend calls it
    colour:   which of the page's colours, from 0; above COLOURS they begin again, dashed otherwise
    is_faint: what lies behind a mean; it is in no legend, and its peaks may be out of sight
    """

    name: str
    points: Sequence[Point]
    colour: int
    is_faint: bool = False


class Chart(NamedTuple):
    """What a figure shows.

    about:     what is drawn, after the title
    from_zero: whether the numbers begin there; `x_name` counts something, and always does
    """

    title: str
    about: str
    x_name: str
    y_name: str
    lines: Sequence[Line]
    from_zero: bool = False


class Axis(NamedTuple):
    """The numbers from `low` to `high`, drawn from `start` to `stop`."""

    low: float
    high: float
    start: float
    stop: float

    def place(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round numbers on the axis."""
        rough = (self.high - self.low) / TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(n * power for n in (1, 2, 5, 10) if n * power >= rough * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def figure(chart: Chart, number: int) -> str:
    """A chart as a figure of HTML; "" where there is nothing to draw.

    number: of the figure in its page
    """
    lines = [line._replace(points=finite(line.points)) for line in chart.lines]
    lines = [line for line in lines if line.points]
    if all(line.is_faint for line in lines):
        return ""
    ids = f"t{number} d{number}"
    leaving = [f"{line.name} leaves the picture" for line in _far(chart, lines)]
    about = "; ".join([chart.about, *leaving])
    return (
        f"<figure><figcaption><b>{safe(chart.title)}</b> <span>{safe(about)}</span>"
        f"{_legend(chart, lines)}</figcaption>\n"
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-labelledby="{ids}">'
        f'<title id="t{number}">{safe(chart.title)}</title>'
        f'<desc id="d{number}">{safe(_described(chart, lines))}</desc>\n'
        f'<clipPath id="c{number}"><rect x="{LEFT - 4:g}" y="{TOP - 4:g}"'
        f' width="{WIDTH - LEFT - RIGHT + 8:g}" height="{HEIGHT - TOP - BOTTOM + 8:g}"/></clipPath>'
        f"\n{_drawn(chart, lines, number)}</svg></figure>\n"
    )


def _drawn(chart: Chart, lines: Sequence[Line], number: int) -> str:
    """Axes and curves."""
    zero = [0.0] if chart.from_zero else []
    far = _far(chart, lines)
    values = chain(zero, *(_heights(line) for line in lines if line not in far))
    ends = (point.x for line in lines for point in line.points)
    across = _axis([0.0, *ends], LEFT, WIDTH - RIGHT)
    up = _axis(list(values), HEIGHT - BOTTOM, TOP)
    curves = "".join(_curve(line, across, up) for line in lines)
    return (
        f"{''.join(_grid(across, up))}"
        f'<text class="name" x="{WIDTH - RIGHT:g}" y="{HEIGHT - 6:g}" text-anchor="end">'
        f"{safe(chart.x_name)}</text>"
        f'<text class="name" transform="translate(11 {TOP:g}) rotate(-90)" text-anchor="end">'
        f"{safe(chart.y_name)}</text>"
        f'<g clip-path="url(#c{number})">{curves}</g>'
    )


def _far(chart: Chart, lines: Sequence[Line]) -> list[Line]:
    """Lines of a run that diverged, beside which no other one could be read."""
    if chart.from_zero:
        return []
    whole = [line for line in lines if not line.is_faint]
    tops = [max(abs(point.y) for point in line.points) for line in whole]
    limit = FAR * median_low(tops)
    return [line for line, top in zip(whole, tops, strict=True) if top > limit > 0]


def _heights(line: Line) -> list[float]:
    """The numbers that have to be in sight: of a faint line all but the outermost."""
    found = sorted(point.y for point in line.points)
    hidden = int(HIDDEN * len(found)) if line.is_faint else 0
    return found[hidden : len(found) - hidden]


def _axis(values: Sequence[float], start: float, stop: float) -> Axis:
    low = min(values)
    high = max(values)
    room = 0.03 * (high - low)
    if room <= 1e-9 * max(abs(low), abs(high)):  # a level line, of which floats tell no more
        room = 0.05 * abs(high) or 1.0
    return Axis(low - room if low else low, high + room, start, stop)


def _grid(across: Axis, up: Axis) -> Iterator[str]:
    for value in up.ticks():
        y = up.place(value)
        yield f'<path class="grid" d="M{LEFT:g} {y:.1f}H{WIDTH - RIGHT:g}"/>'
        yield f'<text x="{LEFT - 6:g}" y="{y + 4:.1f}" text-anchor="end">{tick(value)}</text>'
    base = HEIGHT - BOTTOM
    yield f'<path class="axis" d="M{LEFT:g} {base:g}H{WIDTH - RIGHT:g}"/>'
    for value in across.ticks():
        x = across.place(value)
        yield f'<path class="axis" d="M{x:.1f} {base:g}v4"/>'
        yield f'<text x="{x:.1f}" y="{base + 17:g}" text-anchor="middle">{tick(value)}</text>'


def _curve(line: Line, across: Axis, up: Axis) -> str:
    """A path through the points, and where they are few a dot for each."""
    places = [Point(across.place(point.x), up.place(point.y)) for point in line.points]
    path = "L".join(f"{x:.1f} {min(max(y, -999), 999):.1f}" for x, y in places)
    if line.is_faint:
        return f'<path class="faint {_look(line)}" d="M{path}"/>'
    dots = places if len(places) <= MOST_DOTS else []
    circles = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in dots)
    return f'<g class="{_look(line)}"><path class="line" d="M{path}"/>{circles}</g>'


def _look(line: Line) -> str:
    """The classes of a line's colour and dashes."""
    rounds, colour = divmod(line.colour, COLOURS)
    return f"c{colour} r{min(rounds, 2)}"


def _legend(chart: Chart, lines: Iterable[Line]) -> str:
    """Names of the lines with their colours, where there could be several."""
    if sum(not line.is_faint for line in chart.lines) < 2:
        return ""
    keys = "".join(_key(line) for line in lines if not line.is_faint)
    return f'<span class="legend">{keys}</span>'


def _key(line: Line) -> str:
    sample = (
        f'<svg class="key" viewBox="0 0 22 8" aria-hidden="true"><g class="{_look(line)}">'
        '<path class="line" d="M0 4H22"/></g></svg>'
    )
    return f'<span class="entry">{sample} <bdi>{safe(line.name)}</bdi></span> '


def _described(chart: Chart, lines: Iterable[Line]) -> str:
    """The curves in words, for those who do not see them."""
    said = [
        f"{line.name}: {tick(line.points[0].y)} at first, {tick(line.points[-1].y)} at last, "
        f"from {tick(min(y for _, y in line.points))} to {tick(max(y for _, y in line.points))}"
        for line in lines
        if not line.is_faint
    ]
    return f"{chart.y_name} against {chart.x_name}. {'; '.join(said)}."


def tick(value: float) -> str:
    """A number on an axis: 0.25, 800, 20k, 3e+13."""
    value = float(f"{value:.4g}")
    if 1e4 <= abs(value) < 1e6:
        return f"{value / 1e3:g}k"
    return f"{value:g}"


def safe(text: object) -> str:
    """A text that may hold anything, as HTML shows it: no markup, and no letters that are not seen,
    such as those that turn the direction of what follows."""
    return html.escape(shown(str(text)))


# -- fewer points ----------------------------------------------------------------------------------


def finite(points: Iterable[Point]) -> list[Point]:
    return [point for point in points if math.isfinite(point.x) and math.isfinite(point.y)]


def means(points: Sequence[Point], most: int) -> list[Point]:
    """At most so many points, each the mean of the neighbours that it stands for."""
    return [_mean(part) for part in _parts(points, most)]


def extremes(points: Sequence[Point], most: int) -> list[Point]:
    """At most so many points, of each stretch its lowest and its highest: no peak gets lost."""
    if len(points) <= most:
        return list(points)
    found: list[Point] = []
    for part in _parts(points, most // 2):
        ends = {min(part, key=lambda point: point.y), max(part, key=lambda point: point.y)}
        found.extend(sorted(ends))
    return found


def last_ones(points: Sequence[Point], most: int) -> list[Point]:
    """At most so many points, the last of each stretch."""
    return [part[-1] for part in _parts(points, most)]


def _mean(part: Sequence[Point]) -> Point:
    return Point(
        sum(point.x for point in part) / len(part), sum(point.y for point in part) / len(part)
    )


def _parts(points: Sequence[Point], most: int) -> Iterator[Sequence[Point]]:
    """The points in at most so many stretches of the same length, but for the last."""
    size = max(1, math.ceil(len(points) / most))
    for start in range(0, len(points), size):
        yield points[start : start + size]
