"""Contours around masks: what lies inside is the mask again, by matplotlib and by medseg's own reader."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray
from scipy import ndimage

from medseg.dicom.contours import combine
from medseg.dicom.decimals import decimal_texts
from medseg.dicom.shaping import crosses, outlines, smooth, thin
from medseg.dicom.tracing import bridges, join, signed_area, trace

Mask = NDArray[np.bool_]
Points = NDArray[np.float64]
FOUR, EIGHT = ndimage.generate_binary_structure(2, 1), ndimage.generate_binary_structure(2, 2)


def disc(radius: float, size: int = 31) -> Mask:
    rows, columns = np.indices((size, size)) - size // 2
    return rows**2 + columns**2 <= radius**2


def rings(*radii: float) -> Mask:
    """Discs combined by exclusive or."""
    return np.logical_xor.reduce([disc(radius) for radius in radii])


def line(width: int, slope: int) -> Mask:
    mask = np.zeros((20, 20), dtype=bool)
    for k in range(18):
        row = 1 + slope * k
        mask[row : row + width, k + 1] = True
    return mask[:20, :20]


def blobs(seed: int, sigma: float = 1.2, shape: tuple[int, int] = (28, 33)) -> Mask:
    noise = np.random.default_rng(seed).standard_normal(shape)
    return ndimage.gaussian_filter(noise, sigma) > 0


MASKS = {
    "disc": disc(5),
    "ring": rings(12, 8),
    "nested rings": rings(14, 11, 8, 5, 2),
    "line, one wide": line(1, 0),
    "line, two wide": line(2, 0),
    "line, two wide, upright": line(2, 0).T,
    "diagonal, one wide": np.eye(9, dtype=bool),
    "diagonal, two wide": line(2, 1),
    "steps back": np.eye(9, dtype=bool)[::-1],
    "voxel": disc(0, 5),
    "voxel alone": np.ones((1, 1), dtype=bool),
    "corner touching": np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], dtype=bool),
    "hole touching outside": np.array([[1, 1, 1, 0], [1, 0, 1, 1], [1, 1, 0, 1], [0, 1, 1, 1]], dtype=bool),
    "checkerboard": np.indices((9, 8)).sum(axis=0) % 2 == 0,
    "all of the image": np.ones((7, 5), dtype=bool),
    "at the border": np.pad(np.zeros((4, 5), dtype=bool), 2, constant_values=True),
    **{f"blobs {seed}": blobs(seed) for seed in range(4)},
    **{f"noise {seed}": blobs(seed, 0.0) for seed in range(4)},
    **{f"dense noise {seed}": ~(blobs(seed, 0.0) & blobs(seed + 50, 0.0)) for seed in range(2)},
}
ALL = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())


def inside(contours: Sequence[Points], shape: tuple[int, int]) -> Mask:
    """The pixels whose centre lies in an odd number of the contours, by matplotlib."""
    rows, columns = np.indices(shape)
    centres = np.stack([columns.ravel(), rows.ravel()], axis=1)
    mask = np.zeros(rows.size, dtype=bool)
    for points in contours:
        mask ^= Polygon(points).contains_points(centres)
    return mask.reshape(shape)


def parts(mask: Mask) -> tuple[int, int]:
    """How many regions, joined by sides, and how many holes, joined by sides or corners."""
    return ndimage.label(mask, FOUR)[1], ndimage.label(~np.pad(mask, 1), EIGHT)[1] - 1


# --- tracing ---


@ALL
@pytest.mark.parametrize("is_keyhole", [False, True])
def test_what_lies_inside_is_the_mask(mask: Mask, is_keyhole: bool) -> None:
    contours = outlines(mask, (1.0, 1.0), is_keyhole=is_keyhole)
    assert np.array_equal(inside(contours, mask.shape), mask)
    read = combine(contours, mask.shape)
    assert np.array_equal(read.mask, mask)
    assert not read.is_cut
    assert read.overlapping == 0
    assert min(map(len, contours)) >= 3


@ALL
def test_each_region_and_each_hole_has_a_contour_and_an_area(mask: Mask) -> None:
    """Every turn of a contour is cut: a region loses half a pixel, and so does a hole."""
    regions, holes = parts(mask)
    areas = [signed_area(points) for points in outlines(mask, (1.0, 1.0))]
    assert (sum(area > 0 for area in areas), sum(area < 0 for area in areas)) == (regions, holes)
    assert sum(areas) == mask.sum() - 0.5 * (regions - holes)
    joined = outlines(mask, (1.0, 1.0), is_keyhole=True)
    assert [signed_area(points) > 0 for points in joined] == [True] * regions
    assert sum(map(signed_area, joined)) == pytest.approx(sum(areas), abs=1e-9)


def test_the_area_of_a_disc_of_five_voxels_is_right_to_one_percent() -> None:
    (points,) = outlines(disc(5), (1.0, 1.0))
    assert signed_area(points) == pytest.approx(disc(5).sum(), rel=0.01)


@ALL
def test_only_points_at_which_the_direction_changes_are_left(mask: Mask) -> None:
    for full, few in zip(trace(mask).contours, outlines(mask, (1.0, 1.0)), strict=True):
        kept = {tuple(point) for point in few.tolist()}
        for before, point, after in zip(np.roll(full, 1, axis=0), full, np.roll(full, -1, axis=0), strict=True):
            is_straight = np.array_equal(
                (point - before) * np.linalg.norm(after - point), (after - point) * np.linalg.norm(point - before)
            )
            assert (tuple(point.tolist()) in kept) != is_straight


@ALL
def test_no_two_contours_touch(mask: Mask) -> None:
    points = trace(mask).points
    assert len(np.unique(points, axis=0)) == len(points)
    contours = outlines(mask, (1.0, 1.0))
    assert not crosses(contours)
    regions, _ = parts(mask)
    assert len(outlines(mask, (1.0, 1.0), is_keyhole=True)) == regions


@ALL
def test_bridges_run_through_the_mask_and_past_the_centres(mask: Mask) -> None:
    contours = trace(mask).contours
    for link in bridges(contours):
        start, stop = contours[link.hole][link.start], contours[link.parent][link.stop]
        assert link.hole != link.parent
        assert np.abs(stop - start).tolist() == [abs(stop - start)[0]] * 2
        steps = start + (stop - start) * np.linspace(0, 1, 64)[1:-1, None]
        columns, rows = np.rint(steps).astype(int).T
        near = np.linalg.norm(steps - np.rint(steps), axis=1)
        assert mask[rows[near < 0.4], columns[near < 0.4]].all()
        assert near.min() > 0.35


def test_a_hole_in_a_hole_of_a_keyhole_is_joined_in_one_contour() -> None:
    """Three holes on one diagonal: each is joined to the next one."""
    mask = np.ones((13, 13), dtype=bool)
    mask[[3, 6, 9], [3, 6, 9]] = False
    contours = trace(mask).contours
    links = bridges(contours)
    assert len({link.parent for link in links}) == 3
    (joined,) = join(contours, links)
    assert len(joined) == sum(map(len, contours)) + 2 * 3
    assert np.array_equal(inside([joined], mask.shape), mask)


# --- decimals ---


def test_decimals_are_those_of_the_language() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.uniform(-(10.0**power), 10.0**power, 300) for power in range(-4, 10)])
    values = np.append(values, [0.0, -0.0, 0.4e-3, -0.4e-3, 0.6e-3, -1.0, 9.9996, 999.9996, 123456789.123])
    (text,) = decimal_texts(values, [len(values)])
    expected = "\\".join(f"{value:.3f}".replace("-0.000", "0.000") for value in values.tolist())
    assert text.decode().rstrip(" ") == expected
    assert len(text) % 2 == 0


def test_texts_are_split_by_count() -> None:
    assert decimal_texts(np.array([[1.0, -2.5], [10.25, 0.0]]), [1, 3]) == [b"1.000 ", b"-2.500\\10.250\\0.000 "]


@pytest.mark.parametrize("value", [1e10, -1e10, np.nan, np.inf])
def test_what_does_not_fit_a_decimal_string_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="a coordinate of 1e\\+10 mm or more, or not finite"):
        decimal_texts(np.array([0.0, value]), [2])
    assert max(map(len, decimal_texts(np.array([-9999999999.999]), [1]))) <= 16


# --- shaping ---


def circle(radius: float, count: int = 400) -> Points:
    angle = np.arange(count) * 2 * np.pi / count
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


@pytest.mark.parametrize(("radius", "sigma"), [(20.0, 2.0), (20.0, 5.0), (10.0, 5.0), (10.0, 50.0)])
def test_a_smoothed_circle_shrinks_as_the_formula_says(radius: float, sigma: float) -> None:
    gauss = np.exp(-((min(sigma, radius / 2) / radius) ** 2) / 2)
    found = np.linalg.norm(smooth(circle(radius), sigma), axis=1)
    assert found == pytest.approx(radius * (1 - (1 - gauss) ** 2), rel=2e-4)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 2.0)])
@pytest.mark.parametrize("is_keyhole", [False, True])
def test_smoothed_contours_stay_near_and_turn_less(spacing: tuple[float, float], is_keyhole: bool) -> None:
    mask = rings(14, 11, 8, 5, 2)
    rough, smoothed = (outlines(mask, spacing, is_keyhole=is_keyhole, smooth_mm=mm) for mm in (0.0, 1.5))
    assert len(rough) == len(smoothed)
    for before, after in zip(rough, smoothed, strict=True):
        assert signed_area(after) == pytest.approx(signed_area(before), rel=0.03)
        assert distance(after * spacing, before * spacing).max() < 1.0
    found = inside(smoothed, mask.shape)
    assert 2 * (found & mask).sum() / (found.sum() + mask.sum()) > 0.97
    if not is_keyhole:
        assert sum(map(turned, smoothed)) < 0.6 * sum(map(turned, rough))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("is_keyhole", [False, True])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 2.0)])
def test_decimated_contours_stay_within_the_tolerance(
    seed: int, is_keyhole: bool, spacing: tuple[float, float]
) -> None:
    mask, tolerance = blobs(seed, 2.0), 0.6
    full = outlines(mask, spacing, is_keyhole=is_keyhole)
    few = outlines(mask, spacing, is_keyhole=is_keyhole, decimate_mm=tolerance)
    assert len(full) == len(few)
    assert sum(map(len, few)) < 0.8 * sum(map(len, full))
    for before, after in zip(full, few, strict=True):
        assert len(after) >= 3
        assert distance(before * spacing, after * spacing).max() <= tolerance + 1e-9
        assert distance(after, before).max() < 1e-9
    assert is_keyhole or not crosses_by_brute_force(few)


@ALL
@pytest.mark.parametrize(("smooth_mm", "decimate_mm"), [(0.0, 5.0), (5.0, 0.0), (5.0, 5.0)])
def test_the_most_that_may_be_asked_for_leaves_every_contour(
    mask: Mask, smooth_mm: float, decimate_mm: float
) -> None:
    contours = outlines(mask, (1.0, 1.0), smooth_mm=smooth_mm, decimate_mm=decimate_mm)
    regions, holes = parts(mask)
    assert len(contours) == regions + holes
    assert min(map(len, contours)) >= 3
    assert not crosses_by_brute_force(contours)
    areas = list(map(signed_area, contours))
    assert sum(area > 0 for area in areas) == regions
    assert min(map(abs, areas)) > 0.3


def test_a_thin_line_keeps_its_two_sides() -> None:
    (points,) = outlines(line(1, 0), (1.0, 1.0), decimate_mm=5.0)
    assert np.array_equal(inside([points], (20, 20)), line(1, 0))


def test_points_that_are_fixed_stay() -> None:
    fixed = (7, 123, 250)
    assert set(fixed) <= set(thin(circle(20), 1.0, fixed).tolist())
    assert len(thin(circle(20), 1.0)) < 20


@pytest.mark.parametrize("seed", range(30))
def test_crossing_sides_are_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    contours = [rng.uniform(0, 10, 2) + rng.uniform(-2, 2, (int(rng.integers(3, 5)), 2)) for _ in range(3)]
    assert crosses(contours) == crosses_by_brute_force(contours)


def test_some_do_cross_and_some_do_not() -> None:
    assert crosses([np.array([(0.0, 0.0), (2.0, 2.0), (2.0, 0.0), (0.0, 2.0)])])
    assert not crosses([circle(2), circle(1), circle(3)])
    assert crosses([circle(2), circle(2) + 0.5])


def distance(points: Points, contour: Points) -> Points:
    """How far points are from a contour, by every side."""
    start = contour[:, None]
    along = np.roll(contour, -1, axis=0)[:, None] - start
    share = np.clip(((points - start) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-30), 0, 1)
    return np.linalg.norm(points - start - share[..., None] * along, axis=-1).min(axis=0)


def turned(points: Points) -> float:
    """By how much a contour turns in all, either way."""
    side = np.roll(points, -1, axis=0) - points
    angle = np.arctan2(side[:, 1], side[:, 0])
    return float(np.abs((np.diff(np.append(angle, angle[0])) + np.pi) % (2 * np.pi) - np.pi).sum())


def crosses_by_brute_force(contours: Sequence[Points]) -> bool:
    """Whether a side meets another one between their ends, by solving for the place on both, for every pair."""
    start = np.concatenate(contours)
    side = np.concatenate([np.roll(points, -1, axis=0) - points for points in contours])
    gap = start[None] - start[:, None]
    system = side[:, None, 0] * side[None, :, 1] - side[:, None, 1] * side[None, :, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        one = (gap[..., 0] * side[None, :, 1] - gap[..., 1] * side[None, :, 0]) / system
        other = (gap[..., 0] * side[:, None, 1] - gap[..., 1] * side[:, None, 0]) / system
        meets = (one > 1e-9) & (one < 1 - 1e-9) & (other > 1e-9) & (other < 1 - 1e-9)
    return bool((meets & (np.abs(system) > 1e-12)).any())
