"""Charts as numbers in pixels, which a template draws as SVG in the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 440.0, 250.0
_STRIP_WIDTH = 840.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 26.0, 12.0, 44.0
_ROW = 26.0
_CHARACTER = 7.5
LONGEST_NAME = 30  # characters of a label's name beside its strip
_MOST_POINTS = 1000
_MOST_MARKED = 40
_ROUND = (1, 2, 5, 10)
_GOLDEN_RATIO = 0.618033988749895
_DICE_FLOOR = 0.9  # a strip of Dice begins here, or lower where there are lower values

Point = tuple[float, float]
Tick = tuple[float, str]


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        name: For the legend; empty where there is none.
        points: (x, y); a y that is not finite breaks the line.
        color: CSS colour.
        bold: Drawn thicker.
    """

    name: str
    points: Sequence[Point]
    color: str = "var(--accent)"
    bold: bool = False


@dataclass(frozen=True)
class Line:
    """A `Series` in pixels: the data of an SVG path, and the points that are marked."""

    series: Series
    path: str
    marks: Sequence[Point]


@dataclass(frozen=True)
class Chart:
    """A line chart in pixels."""

    title: str
    x_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[Line]
    width: float = WIDTH
    height: float = HEIGHT
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM


@dataclass(frozen=True)
class Strip:
    """The Dice of every case of one label in pixels: a dot each, and a mark at the median."""

    name: str
    color: str
    y: float
    dots: Sequence[tuple[float, float, str]]
    median: float


@dataclass(frozen=True)
class StripChart:
    """One strip a label, one below the other, over one axis of Dice."""

    longest_name = LONGEST_NAME

    strips: Sequence[Strip]
    ticks: Sequence[Tick]
    left: float
    right: float
    height: float
    width: float = _STRIP_WIDTH


def line_chart(title: str, series: Sequence[Series], *, x_label: str = "step") -> Chart | None:
    """Lay out a line chart; None where no series has a point."""
    thinned = [(item, _thin(item.points)) for item in series]
    known = [point for _, points in thinned for point in points if math.isfinite(point[1])]
    if not known:
        return None
    x_values, y_values = zip(*known, strict=True)
    x_range = min(0.0, *x_values), max(x_values)
    x_ticks = _nice(*x_range, 5, whole=True)
    y_ticks = _nice(min(y_values), max(y_values), 5)
    chart = Chart(title, x_label, (), (), ())
    y_range = min(y_ticks[0], *y_values), max(y_ticks[-1], *y_values)

    def place(point: Point) -> Point:
        return _scale(point[0], x_range, (chart.left, chart.right)), _scale(
            point[1], y_range, (chart.bottom, chart.top)
        )

    lines = [_line(item, [place(p) if math.isfinite(p[1]) else p for p in points]) for item, points in thinned]
    inside = [value for value in x_ticks if x_range[0] <= value <= x_range[1]]
    return Chart(
        title,
        x_label,
        [(place((value, y_range[0]))[0], f"{value:,.0f}") for value in inside],
        [(place((x_range[0], value))[1], f"{value:g}") for value in y_ticks],
        [line for line in lines if line.path],
    )


def strip_chart(values: Mapping[str, Mapping[str, float]], colors: Mapping[str, str]) -> StripChart | None:
    """Lay out the Dice of every case.

    Args:
        values: Finite Dice by case, by label name; a label without any is left out.
        colors: CSS colour by label name.

    Returns:
        The chart, or None where there is no value.
    """
    known = {name: cases for name, cases in values.items() if cases}
    if not known:
        return None
    left, right = 30.0 + _CHARACTER * min(LONGEST_NAME, max(map(len, known))), _STRIP_WIDTH - 20.0
    lowest = min(min(cases.values()) for cases in known.values())
    span = (min(_DICE_FLOOR, math.floor(lowest * 10) / 10), 1.0)
    strips = []
    for row, (name, cases) in enumerate(known.items()):
        y = _TOP + (row + 0.5) * _ROW
        dots = [
            (_scale(dice, span, (left, right)), y + (number * _GOLDEN_RATIO % 1 - 0.5) * 0.5 * _ROW, case)
            for number, (case, dice) in enumerate(cases.items())
        ]
        strips.append(Strip(name, colors[name], y, dots, _scale(median(cases.values()), span, (left, right))))
    ticks = [(_scale(value, span, (left, right)), f"{value:g}") for value in _nice(*span, 8) if value <= 1]
    return StripChart(strips, ticks, left, right, _TOP + len(strips) * _ROW + 28)


def _line(series: Series, points: Sequence[Point]) -> Line:
    runs: list[list[Point]] = [[]]
    for point in points:
        if math.isfinite(point[1]):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    path = " ".join("M" + " L".join(f"{x:.1f},{y:.1f}" for x, y in run) for run in runs if run)
    lonely = [run[0] for run in runs if len(run) == 1]
    drawn = [point for run in runs for point in run]
    return Line(series, path, drawn if len(drawn) <= _MOST_MARKED else lonely)


def _thin(points: Sequence[Point]) -> list[Point]:
    """Return every n-th point and the last one, where there are more than a line can show."""
    step = math.ceil(len(points) / _MOST_POINTS) or 1
    kept = list(points[::step])
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


def _nice(low: float, high: float, most: int, *, whole: bool = False) -> list[float]:
    """Return round numbers that cover a range."""
    if low == high:
        low, high = (low - 1, high + 1) if whole or low == 0 else (low - abs(low) / 10, high + abs(high) / 10)
    ticks = [float(value) for value in MaxNLocator(most, integer=whole, steps=_ROUND).tick_values(low, high)]
    step = min(b - a for a, b in pairwise(ticks))
    return [round(value / step) * step if abs(value) < step / 2 else value for value in ticks]


def _scale(value: float, span: tuple[float, float], pixels: tuple[float, float]) -> float:
    share = (value - span[0]) / (span[1] - span[0]) if span[1] > span[0] else 0.5
    return pixels[0] + share * (pixels[1] - pixels[0])
