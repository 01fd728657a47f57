"""Charts: points where arithmetic puts them, ticks that are round, lines that break where a number is missing."""

import math
import re

import pytest

from medseg.report.chart import Series, line_chart, strip_chart


def coordinates(path):
    return [[tuple(map(float, point.split(","))) for point in run.split(" L")] for run in path[1:].split(" M")]


def test_a_line_goes_from_corner_to_corner():
    chart = line_chart("x", [Series("", [(0, 0.0), (50, 0.25), (100, 1.0)])])
    ((first, middle, last),) = coordinates(chart.lines[0].path)
    assert first == pytest.approx((chart.left, chart.bottom))
    assert last == pytest.approx((chart.right, chart.top))
    assert middle == pytest.approx(
        ((chart.left + chart.right) / 2, chart.bottom - (chart.bottom - chart.top) / 4), abs=0.06
    )


def test_ticks_are_round_and_stand_where_their_value_is():
    chart = line_chart("x", [Series("", [(0, 0.0), (6000, 1.0)])])
    assert [text for _, text in chart.y_ticks] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    for x, text in chart.x_ticks:
        share = float(text.replace(",", "")) / 6000
        assert x == pytest.approx(chart.left + share * (chart.right - chart.left))
    for y, text in chart.y_ticks:
        assert y == pytest.approx(chart.bottom - float(text) * (chart.bottom - chart.top))


def test_a_number_that_is_missing_breaks_the_line_and_a_lonely_one_is_a_dot():
    points = [(0, 1.0), (1, 2.0), (2, math.nan), (3, 1.0), (4, math.nan), (5, 2.0), (6, 3.0)]
    line = line_chart("x", [Series("", points)]).lines[0]
    assert [len(run) for run in coordinates(line.path)] == [2, 1, 2]
    many = [(n, math.nan if n in (50, 52) else 1.0 + n) for n in range(100)]
    chart = line_chart("x", [Series("", many)])
    ((x, _),) = chart.lines[0].marks
    assert x == pytest.approx(chart.left + 51 / 99 * (chart.right - chart.left))


def test_thousands_of_points_are_thinned_and_the_last_is_kept():
    line = line_chart("x", [Series("", [(n, float(n)) for n in range(12_345)])]).lines[0]
    (run,) = coordinates(line.path)
    assert 500 < len(run) <= 1001
    chart = line_chart("x", [Series("", [(0, 0.0), (12_344, 12_344.0)])])
    assert run[-1] == coordinates(chart.lines[0].path)[0][-1]


@pytest.mark.parametrize("points", [[(5, 0.5)], [(1, 0.5), (2, 0.5)], [(0, 0.0)]])
def test_a_single_value_can_be_drawn(points):
    chart = line_chart("x", [Series("", points)])
    numbers = [float(n) for n in re.findall(r"-?[\d.]+", chart.lines[0].path)]
    assert all(math.isfinite(n) for n in numbers)
    assert all(chart.top <= y <= chart.bottom for _, y in coordinates(chart.lines[0].path)[0])


def test_nothing_is_no_chart():
    assert line_chart("x", []) is None
    assert line_chart("x", [Series("", [(0, math.nan)])]) is None
    assert strip_chart({"a": {}}, {"a": "#fff"}) is None


def test_a_strip_has_a_dot_a_case_and_a_mark_at_the_median():
    chart = strip_chart({"liver": {"a": 0.5, "b": 0.75, "c": 1.0}, "none": {}}, {"liver": "#010203"})
    (strip,) = chart.strips
    assert [case for _, _, case in strip.dots] == ["a", "b", "c"]
    xs = [x for x, _, _ in strip.dots]
    assert xs == pytest.approx([chart.left, (chart.left + chart.right) / 2, chart.right])
    assert strip.median == pytest.approx(xs[1])
    assert [text for _, text in chart.ticks] == ["0.5", "0.6", "0.7", "0.8", "0.9", "1"]


def test_a_strip_of_good_cases_begins_at_nine_tenths():
    chart = strip_chart({"liver": {"a": 0.99}}, {"liver": "#010203"})
    assert chart.ticks[0][1] == "0.9"
