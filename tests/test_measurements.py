"""Measurements of masks against loops over voxels, closed forms, contourpy and scipy."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import math
import tracemalloc

import contourpy
import numpy as np
import pytest
import scipy.spatial
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.diameter import convex_hull, outline_points
from medseg.errors import GridError
from medseg.labels import LabelMap, LabelSet
from medseg.measurements import LabelMeasurement, axial_axis, measure, measurements_csv, measurements_json
from medseg.volume import Volume

NAMES = {1: "liver", 3: "spleen", 200: "kidney"}
SHEARED = np.array([[0.7, 0.1, 0.0, 5.0], [0.0, 0.9, 0.6, -7.0], [0.05, 0.0, 2.3, 11.0], [0, 0, 0, 1.0]])


def label_map(array, affine=None, names=NAMES) -> LabelMap:
    return LabelMap(
        Volume(np.asfortranarray(array), np.eye(4) if affine is None else affine), LabelSet.from_names(names)
    )


def only(array, affine=None, image=None) -> LabelMeasurement:
    """Measure a mask of one label."""
    labels = label_map(np.asarray(array, dtype=np.uint8), affine, {1: "it"})
    (one,) = measure(labels, None if image is None else Volume(image, labels.affine))
    return one


def by_loops(labels: LabelMap, image: np.ndarray, value: int) -> dict[str, object]:
    """Measure one label voxel by voxel."""
    world = labels.affine
    voxels = [index for index in itertools.product(*map(range, labels.array.shape)) if labels.array[index] == value]
    centres = [world[:3, :3] @ index + world[:3, 3] for index in voxels]
    values = [float(image[index]) for index in voxels]
    mean = math.fsum(values) / len(values)
    axis = int(np.argmax(np.abs(world[2, :3]) / np.linalg.norm(world[:3, :3], axis=0)))
    a, b = (other for other in range(3) if other != axis)
    longest = 0.0
    for plane in {index[axis] for index in voxels}:
        points = []
        for index in (index for index in voxels if index[axis] == plane):
            for step_axis, step in ((a, -1), (a, 1), (b, -1), (b, 1)):
                beside = list(index)
                beside[step_axis] += step
                inside = 0 <= beside[step_axis] < labels.array.shape[step_axis]
                if not inside or labels.array[tuple(beside)] != value:
                    points.append(world[:3, :3] @ (np.add(index, beside) / 2))
        longest = max(longest, *(float(np.linalg.norm(p - q)) for p, q in itertools.product(points, points)))
    return {
        "voxels": len(voxels),
        "volume_ml": len(voxels) * abs(np.linalg.det(world[:3, :3])) / 1000,
        "centroid_mm": np.mean(centres, axis=0),
        "mean": mean,
        "deviation": math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values)),
        "longest_mm": longest,
    }


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(["u1", "u2", "i4", "u4"]))
def test_random_masks_on_random_grids_agree_with_a_loop(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 7, 3))
    array = rng.choice([0, 0, 1, 3, 200, 77], shape).astype(kind)  # 77 has no name
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(rng.standard_normal((3, 3)))[0] * rng.uniform(0.5, 4, 3)
    affine[:3, 2] += rng.uniform(-0.3, 0.3) * affine[:3, 1]
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    image = rng.normal(1e4, 3, shape).astype(np.float32)
    labels = label_map(array, affine)
    measured = measure(labels, Volume(image, affine), "HU")
    assert [one.label.index for one in measured] == [value for value in NAMES if (array == value).any()]
    for one in measured:
        expected = by_loops(labels, image, one.label.index)
        assert one.voxels == expected["voxels"]
        assert one.unit == "HU"
        for found, name in ((one.volume_ml, "volume_ml"), (one.mean, "mean")):
            assert found == pytest.approx(expected[name], rel=1e-12)
        assert one.deviation == pytest.approx(expected["deviation"], rel=1e-9, abs=1e-9)
        assert one.centroid_mm == pytest.approx(expected["centroid_mm"], abs=1e-9)
        assert one.diameter.length_mm == pytest.approx(expected["longest_mm"], rel=1e-12)


@pytest.mark.parametrize("affine", [np.eye(4), SHEARED])
def test_the_ends_lie_on_the_outline_of_one_slice_as_far_apart_as_is_said(affine) -> None:
    rng = np.random.default_rng(3)
    array = (rng.random((9, 8, 5)) < 0.4).astype(np.uint8)
    one = only(array, affine)
    assert one.diameter.axis == axial_axis(label_map(array, affine).grid) == 2
    ends = label_map(array, affine).grid.index(np.array(one.diameter.ends_mm))
    assert ends[:, 2] == pytest.approx([one.diameter.slice] * 2)
    assert math.dist(*one.diameter.ends_mm) == pytest.approx(one.diameter.length_mm)
    for end in ends[:, :2] * 2:
        points = dict(outline_points(array[:, :, one.diameter.slice]))[1]
        assert np.abs(points - end).max(axis=1).min() < 1e-9


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (5, 1), (2, 9), (7, 7)])
def test_a_box_is_as_long_as_the_diagonal_of_its_outline(columns: int, rows: int) -> None:
    array = np.zeros((12, 12, 4))
    array[2 : 2 + columns, 1 : 1 + rows, 1:3] = 1
    one = only(array, np.diag([1.0, 1.0, 9.0, 1.0]))
    longest = max(math.hypot(columns, rows - 1), math.hypot(columns - 1, rows))
    assert one.diameter.length_mm == pytest.approx(longest)
    assert one.diameter.slice == 1  # the first of equal ones


def test_an_ellipsoid_has_the_volume_and_the_diameter_of_its_formula() -> None:
    axes_mm, spacing = np.array([31.0, 17.0, 40.0]), np.array([0.9, 0.8, 2.0])
    turn = math.radians(33)
    grid = np.moveaxis(np.indices((90, 90, 50)), 0, -1) * spacing - [40.3, 36.2, 49.1]
    x = grid[..., 0] * math.cos(turn) + grid[..., 1] * math.sin(turn)
    y = -grid[..., 0] * math.sin(turn) + grid[..., 1] * math.cos(turn)
    array = (x / axes_mm[0]) ** 2 + (y / axes_mm[1]) ** 2 + (grid[..., 2] / axes_mm[2]) ** 2 <= 1
    one = only(array, np.diag([*spacing, 1.0]))
    assert one.volume_ml == pytest.approx(4 / 3 * math.pi * axes_mm.prod() / 1000, rel=0.005)
    assert one.diameter.length_mm == pytest.approx(2 * axes_mm[0], abs=0.9)
    start, end = np.array(one.diameter.ends_mm)
    direction = (end - start) / np.linalg.norm(end - start)
    assert abs(direction @ [math.cos(turn), math.sin(turn), 0]) == pytest.approx(1, abs=0.005)
    assert one.diameter.slice in (24, 25)  # 48 and 50 mm, beside 49.1 mm


def test_a_mask_measures_the_same_however_it_is_stored() -> None:
    rng = np.random.default_rng(5)
    array = (rng.random((6, 7, 8)) < 0.3).astype(np.uint8)
    affine = np.diag([1.0, 1.5, 2.5, 1.0])
    expected = only(array, affine, rng.random(array.shape))
    image = np.random.default_rng(5)
    image.random(array.shape)
    values = image.random(array.shape)
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            step = tuple(slice(None, None, flip) for flip in flips)
            turned = np.eye(4)
            turned[:3, :3] = affine[:3, :3] * flips
            turned[:3, 3] = affine[:3, :3] @ [
                0 if flip > 0 else n - 1 for flip, n in zip(flips, array.shape, strict=True)
            ]
            one = only(array[step].transpose(order), turned[:, [*order, 3]], values[step].transpose(order))
            assert one.diameter.axis == order.index(2)
            assert one.diameter.length_mm == pytest.approx(expected.diameter.length_mm)
            assert one.centroid_mm == pytest.approx(expected.centroid_mm)
            assert (one.mean, one.deviation) == pytest.approx((expected.mean, expected.deviation))


def test_parts_that_lie_apart_in_a_slice_count_together_and_others_do_not() -> None:
    array = np.zeros((10, 4, 2))
    array[0, 0, 0] = array[8, 0, 0] = array[9, 3, 1] = 1
    assert only(array).diameter.length_mm == 9.0


def test_values_that_are_not_finite_do_not_count() -> None:
    array, image = np.ones((2, 2, 1)), np.array([[[1.0], [math.nan]], [[5.0], [math.inf]]])
    one = only(array, None, image)
    assert (one.voxels, one.mean, one.deviation, one.unit) == (4, 3.0, 2.0, "")
    assert only(array, None, image * math.nan).mean is None


def test_without_an_image_only_sizes_are_measured() -> None:
    one = only(np.ones((2, 2, 2)))
    assert (one.mean, one.deviation, one.unit, one.voxels) == (None, None, "", 8)
    assert measure(label_map(np.zeros((2, 2, 2), dtype=np.uint8)), None) == ()


def test_an_image_of_another_grid_is_refused() -> None:
    labels = label_map(np.ones((2, 2, 2), dtype=np.uint8))
    with pytest.raises(GridError, match="grid of the image"):
        measure(labels, Volume(np.zeros((2, 2, 3)), np.eye(4)))


def test_memory_does_not_grow_with_labels_times_volume() -> None:
    shape, count = (96, 96, 61), 60
    array = np.asfortranarray(np.broadcast_to(np.arange(count + 1, dtype=np.uint8), shape))
    labels = label_map(array, None, {n: f"label {n}" for n in range(1, count + 1)})
    image = Volume(np.asfortranarray(np.ones(shape, dtype=np.float32)), np.eye(4))
    tracemalloc.start()
    assert len(measure(labels, image)) == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * array.size  # one label alone as a mask of each would be 60 times the array


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_the_outline_is_that_of_a_contour_at_one_half(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plane = (rng.random(tuple(rng.integers(1, 9, 2))) < 0.5).astype(np.uint8)
    lines = contourpy.contour_generator(z=np.pad(plane, 1).T.astype(float)).lines(0.5)
    expected = {tuple(point) for line in lines for point in np.rint(2 * (line - 1)).astype(int).tolist()}
    found = dict(outline_points(plane))
    assert {tuple(point) for point in found.get(1, np.empty((0, 2))).tolist()} == expected


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_the_hull_is_that_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.integers(-6, 7, (int(rng.integers(4, 30)), 2))
    if np.linalg.matrix_rank(points - points[0]) < 2:
        return
    expected = {tuple(points[n].tolist()) for n in scipy.spatial.ConvexHull(points).vertices}
    found = [tuple(point) for point in convex_hull(points).tolist()]
    assert set(found) == expected
    assert len(found) == len(expected)


def test_the_tables_hold_the_numbers_with_units_in_their_names() -> None:
    rng = np.random.default_rng(1)
    labels = label_map(rng.choice([0, 1, 3], (5, 6, 7)).astype(np.uint8), SHEARED)
    measured = measure(labels, Volume(rng.normal(size=(5, 6, 7)), SHEARED), "HU")
    rows = list(csv.DictReader(io.StringIO(measurements_csv(measured))))
    listed = json.loads(measurements_json(measured))["measurements"]
    for one, row, entry in zip(measured, rows, listed, strict=True):
        assert (row["label"], int(row["value"]), int(row["voxels"])) == (
            one.label.name,
            one.label.index,
            one.voxels,
        )
        assert (entry["label"], entry["value"], entry["voxels"]) == (one.label.name, one.label.index, one.voxels)
        for found in (row, entry):
            numbers = [float(found[name]) for name in ("volume_ml", "mean", "sd")]
            assert numbers == pytest.approx([one.volume_ml, one.mean, one.deviation], abs=1e-6)
            assert found["unit"] == "HU"
        assert float(row["longest_axial_diameter_mm"]) == pytest.approx(one.diameter.length_mm, abs=1e-6)
        assert entry["longest_axial_diameter"]["length_mm"] == pytest.approx(one.diameter.length_mm, abs=1e-6)
        ends = [[float(row[f"diameter_{end}_{axis}_ras_mm"]) for axis in "xyz"] for end in ("start", "end")]
        assert np.allclose(ends, one.diameter.ends_mm, atol=1e-6)
        assert np.allclose(entry["longest_axial_diameter"]["ends_ras_mm"], one.diameter.ends_mm, atol=1e-6)
        assert np.allclose([float(row[f"centroid_{axis}_ras_mm"]) for axis in "xyz"], one.centroid_mm, atol=1e-6)
        assert np.allclose(entry["centroid_ras_mm"], one.centroid_mm, atol=1e-6)


def test_the_unit_is_what_the_caller_says_and_nothing_without_values() -> None:
    """The values of a CT need not be HU: its rescale may be missing, or of another type."""
    labels = label_map(np.ones((2, 2, 2), dtype=np.uint8))
    assert measure(labels, Volume(np.ones((2, 2, 2)), np.eye(4), modality="CT"))[0].unit == ""
    assert measure(labels, Volume(np.full((2, 2, 2), np.nan), np.eye(4)), "HU")[0].unit == ""


def test_the_channel_is_named_where_there_are_several() -> None:
    one = only(np.ones((1, 1, 1)), image=np.full((1, 1, 1), 7.0))
    (row,) = csv.DictReader(io.StringIO(measurements_csv([one], "0 (MR)")))
    assert (row["channel"], row["mean"], row["longest_axial_diameter_mm"]) == ("0 (MR)", "7.0", "1.0")
    assert json.loads(measurements_json([one], "0 (MR)"))["channel"] == "0 (MR)"
    assert "channel" not in measurements_csv([one]) + measurements_json([one])


def test_what_is_not_known_is_left_open_in_the_tables() -> None:
    one = dataclasses.replace(only(np.ones((1, 1, 1))), mean=None)
    assert next(csv.DictReader(io.StringIO(measurements_csv([one]))))["mean"] == ""
    assert json.loads(measurements_json([one]))["measurements"][0]["mean"] is None
    assert len(measurements_csv([]).splitlines()) == 1
    assert json.loads(measurements_json([])) == {"measurements": []}
