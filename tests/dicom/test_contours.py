"""Filling contours: against double loops over pixels, and what follows from the rule."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medseg.dicom.contours import MOST_PIXELS, SUBPIXELS, combine, fill, mark_paths

SHAPE = (9, 11)  # rows, columns

numbers = st.one_of(
    st.integers(-3, 13).map(float),
    st.sampled_from([k / 4 for k in range(-8, 50)]),
    st.floats(-4, 14, allow_nan=False, width=32),
)
polygons = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=9).map(np.array)


def inside_by_loop(corners: NDArray[np.float64], column: int, row: int) -> bool:
    """The even-odd rule with fractions: sides that a ray to the right crosses; the half-open rule at corners."""
    points = [tuple(Fraction(round(value * SUBPIXELS), SUBPIXELS) for value in point) for point in corners]
    inside = False
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        if (y0 <= row) != (y1 <= row):
            crossing = x0 + (row - y0) * (x1 - x0) / (y1 - y0)
            inside ^= crossing > column
    return inside


def off_by_loop(corners: NDArray[np.float64], column: int, row: int) -> float:
    """The distance of a pixel's centre from the nearest side."""
    best = np.inf
    for start, stop in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        side, centre = stop - start, np.array([column, row]) - start
        length = float(side @ side)
        along = min(max(float(centre @ side) / length, 0.0), 1.0) if length else 0.0
        best = min(best, float(np.linalg.norm(centre - along * side)))
    return best


@settings(max_examples=60, deadline=None)
@given(polygons)
def test_fill_is_the_even_odd_rule_at_every_centre(corners: NDArray[np.float64]) -> None:
    expected = [[inside_by_loop(corners, column, row) for column in range(SHAPE[1])] for row in range(SHAPE[0])]
    assert np.array_equal(fill(corners, SHAPE), expected)


@settings(max_examples=40, deadline=None)
@given(polygons, st.sampled_from([0.01, 0.2]))
def test_the_path_is_marked_within_the_tolerance(corners: NDArray[np.float64], tolerance: float) -> None:
    mask = np.zeros(SHAPE, dtype=bool)
    mark_paths(mask, [corners], tolerance)
    for row in range(SHAPE[0]):
        for column in range(SHAPE[1]):
            off = off_by_loop(corners, column, row)
            if abs(off - tolerance) > 1e-9:
                assert mask[row, column] == (off <= tolerance), (column, row, off)


@settings(max_examples=25, deadline=None)
@given(st.lists(polygons, min_size=1, max_size=4))
def test_contours_are_combined_by_xor_and_their_paths_belong_to_them(contours: list[NDArray[np.float64]]) -> None:
    expected = np.zeros(SHAPE, dtype=bool)
    for corners in contours:
        expected ^= fill(corners, SHAPE)
    for corners in contours:
        mark_paths(expected, [corners])
    assert np.array_equal(combine(contours, SHAPE).mask, expected)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=2, unique=True), numbers, numbers)
def test_polygons_that_share_a_side_share_no_pixel_and_leave_none_out(
    cuts: list[int], top: float, low: float
) -> None:
    left = np.array([(-1, -1), (top, -1), (low, 20), (-1, 20)], dtype=float)
    right = np.array([(20, -1), (top, -1), (low, 20), (20, 20)], dtype=float)
    assert np.array_equal(fill(left, SHAPE), ~fill(right, SHAPE))


def test_a_polygon_of_integer_corners_has_the_area_of_pick_s_theorem() -> None:
    corners = np.array([(1, 1), (8, 2), (9, 7), (4, 8), (2, 5)], dtype=float)
    x, y = corners.T
    area = abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    boundary = sum(
        np.gcd(*map(abs, np.roll(corners, -1, axis=0)[k].astype(int) - corners[k].astype(int))) for k in range(5)
    )
    interior_and_boundary = area + boundary / 2 + 1  # A = I + B/2 - 1
    assert combine([corners], SHAPE).mask.sum() == interior_and_boundary


def test_a_keyhole_is_a_hole() -> None:
    outer = [(0.5, 0.5), (8.5, 0.5), (8.5, 7.5), (0.5, 7.5), (0.5, 0.5)]
    inner = [(3.5, 2.5), (3.5, 5.5), (6.5, 5.5), (6.5, 2.5), (3.5, 2.5)]
    keyhole = combine([np.array(outer + inner)], SHAPE)
    xor = combine([np.array(outer), np.array(inner)], SHAPE)
    assert keyhole.mask.sum() == 8 * 7 - 3 * 3
    assert np.array_equal(keyhole.mask, xor.mask)
    assert not xor.overlapping


@pytest.mark.parametrize(
    ("shift", "overlapping"), [(0.0, 1), (2.0, 1), (20.0, 0)], ids=["the same twice", "partly", "apart"]
)
def test_contours_that_overlap_are_counted(shift: float, overlapping: int) -> None:
    square = np.array([(0.5, 0.5), (4.5, 0.5), (4.5, 4.5), (0.5, 4.5)])
    found = combine([square, square + np.array((shift, 0))], SHAPE)
    assert (found.overlapping, found.is_cut) == (overlapping, shift == 20.0)


@pytest.mark.parametrize("corner", [(MOST_PIXELS, 0), (0, -MOST_PIXELS - 1.0), (np.nan, 0), (0, np.inf)])
def test_corners_that_cannot_be_are_refused(corner: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="a corner that is"):
        combine([np.array([(0, 0), (1, 0), corner], dtype=float)], SHAPE)
