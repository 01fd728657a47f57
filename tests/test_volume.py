"""Grid arithmetic against nibabel, brute force over every voxel, and closed forms."""

from __future__ import annotations

import math

import nibabel as nib
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg.errors import GridError
from medseg.findings import Finding, FindingCode
from medseg.volume import GRID_TOLERANCE_MM, Grid, Volume, smallest_unsigned
from tests.affines import SHAPES, affine_of, axis_aligned, invertible, right_angled, rotation, tilted

INDEX = arrays(np.float64, (4, 3), elements=st.floats(-600, 600))
SHEAR_TOLERANCE = 1e-4


def voxels(shape: tuple[int, ...]) -> np.ndarray:
    return np.indices(shape).reshape(len(shape), -1).T


# --- world and index ---


@settings(max_examples=60, deadline=None)
@given(affine=invertible(), index=INDEX)
def test_index_and_world_undo_each_other(affine, index):
    grid = Grid((3, 4, 5), affine)
    np.testing.assert_allclose(grid.index(grid.world(index)), index, atol=1e-8)
    np.testing.assert_allclose(grid.world(grid.index(index)), index, atol=1e-8)


@settings(max_examples=30, deadline=None)
@given(affine=invertible(), index=INDEX)
def test_world_is_nibabels_apply_affine(affine, index):
    np.testing.assert_allclose(
        Grid((3, 4, 5), affine).world(index), nib.affines.apply_affine(affine, index), rtol=1e-13, atol=1e-10
    )


def test_world_and_index_take_one_point_and_any_number_of_leading_axes():
    grid = Grid((2, 3, 4), affine_of(np.eye(3), (2, 3, 4), (10, 20, 30)))
    np.testing.assert_array_equal(grid.world((1, 1, 1)), (12, 23, 34))
    np.testing.assert_array_equal(grid.index((12, 23, 34)), (1, 1, 1))
    many = np.zeros((5, 2, 7, 3))
    assert grid.world(many).shape == grid.index(many).shape == many.shape


@settings(max_examples=30, deadline=None)
@given(affine=invertible())
def test_spacing_is_the_distance_of_neighbours_and_volume_the_box_of_three_steps(affine):
    grid = Grid((2, 2, 2), affine)
    origin = grid.world((0, 0, 0))
    steps = [grid.world(step) - origin for step in np.eye(3)]
    np.testing.assert_allclose(grid.spacing_mm, [math.dist(s, (0, 0, 0)) for s in steps], rtol=1e-9)
    triple_product = abs(np.dot(np.cross(steps[0], steps[1]), steps[2]))
    assert grid.voxel_volume_ml == pytest.approx(triple_product / 1000, rel=1e-9)


def test_voxels_are_counted_without_overflow():
    assert Grid((70_000, 70_000, 70_000), np.eye(4)).voxel_count == 70_000**3


# --- orientation ---


@pytest.mark.parametrize("axes", axis_aligned(), ids=lambda a: "".join(nib.aff2axcodes(affine_of(a, (1, 1, 1)))))
def test_all_48_orientations_are_nibabels(axes):
    affine = affine_of(axes, (0.7, 1.1, 5.0), (3, -4, 5))
    assert Grid((2, 2, 2), affine).orientation == "".join(nib.aff2axcodes(affine))


@settings(max_examples=150, deadline=None)
@given(affine=right_angled())
def test_oblique_orientation_is_nibabels(affine):
    directions = np.abs(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    ordered = np.sort(directions, axis=0)
    # near a tie two answers are right
    assume((ordered[2] - ordered[1]).min() > 1e-3)
    peaks = np.sort(ordered[2])
    assume(np.diff(peaks).min() > 1e-6 or len(set(directions.argmax(axis=0))) == 3)
    assert Grid((2, 2, 2), affine).orientation == "".join(nib.aff2axcodes(affine))


@settings(max_examples=60, deadline=None)
@given(affine=invertible())
def test_orientation_names_every_world_axis_once(affine):
    codes = Grid((2, 2, 2), affine).orientation
    assert sorted("RLAPSI".index(code) // 2 for code in codes) == [0, 1, 2]


@pytest.mark.parametrize("degrees", [-30, -5, 12, 30])
def test_gantry_tilt_changes_no_orientation(degrees):
    assert Grid((2, 2, 2), tilted(degrees, (0.8, 0.8, 5))).orientation == "RAS"


# --- shear ---


@settings(max_examples=60, deadline=None)
@given(affine=right_angled())
def test_rotations_and_mirrors_are_not_sheared(affine):
    assert not Grid((2, 2, 2), affine).is_sheared


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.3, 0.3, 9)])
@pytest.mark.parametrize(("cosine", "sheared"), [(0.9e-4, False), (1.1e-4, True), (0.3, True), (-0.3, True)])
@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 2), (2, 0)])
def test_sheared_from_a_cosine_of_1e_4_on_whatever_the_spacing(cosine, sheared, spacing, first, second):
    axes = np.eye(3)
    axes[:, second] = math.sqrt(1 - cosine**2) * np.eye(3)[second] + cosine * np.eye(3)[first]
    affine = affine_of(rotation((20, 30, 40)) @ axes, spacing)
    assert Grid((2, 2, 2), affine).is_sheared is sheared


# --- difference ---


@settings(max_examples=80, deadline=None)
@given(affine=invertible(), shape=SHAPES, change=arrays(np.float64, (3, 4), elements=st.floats(-1e-3, 1e-3)))
def test_difference_is_the_worst_voxel_of_all(affine, shape, change):
    other_affine = affine.copy()
    other_affine[:3] += change
    grid, other = Grid(shape, affine), Grid(shape, other_affine)
    far = np.linalg.norm(grid.world(voxels(shape)) - other.world(voxels(shape)), axis=1).max()
    assume(abs(far - GRID_TOLERANCE_MM) > 1e-9)
    assert (grid.difference(other) is None) == (far < GRID_TOLERANCE_MM)
    assert (other.difference(grid) is None) == (grid.difference(other) is None)
    assert grid.difference(other, tolerance_mm=far * 1.001 + 1e-9) is None
    if far > 1e-6:
        assert grid.difference(other, tolerance_mm=far * 0.999) is not None


def test_difference_says_what_differs():
    grid = Grid((4, 5, 6), np.eye(4))
    assert grid.difference(Grid((4, 5, 7), np.eye(4))) == "shape 4x5x7 instead of 4x5x6"
    shifted = affine_of(np.eye(3), (1, 1, 1), (0, 0, 2.5))
    assert grid.difference(Grid((4, 5, 6), shifted)) == "voxels up to 2.5 mm away"
    assert grid.difference(grid, tolerance_mm=0.0) is None


def test_a_small_angle_counts_by_what_it_moves_at_the_far_end():
    turned = affine_of(rotation((0.001, 0, 0)), (1, 1, 1))  # 1.7e-5 rad
    assert Grid((10, 10, 10), np.eye(4)).difference(Grid((10, 10, 10), turned)) is None
    assert Grid((512, 512, 10), np.eye(4)).difference(Grid((512, 512, 10), turned)) is not None


def test_one_voxel_has_no_far_end():
    other = affine_of(rotation((90, 0, 0)), (3, 3, 3))
    assert Grid((1, 1, 1), np.eye(4)).difference(Grid((1, 1, 1), other)) is None


# --- what is valid ---


def with_value(row: int, column: int, value: float) -> np.ndarray:
    affine = np.eye(4)
    affine[row, column] = value
    return affine


@pytest.mark.parametrize(
    ("affine", "found"),
    [
        (np.eye(3), "shape 3x3"),
        (np.zeros((4, 4, 1)), "shape 4x4x1"),
        (with_value(0, 0, np.nan), "not finite"),
        (with_value(1, 3, np.inf), "not finite"),
        (with_value(3, 0, 1.0), "last row"),
        (with_value(3, 3, 2.0), "last row"),
        (with_value(1, 1, 0.0), "singular"),
        (np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "singular"),
        (np.zeros((4, 4)), "last row"),
    ],
)
def test_affines_that_place_nothing_are_refused(affine, found):
    with pytest.raises(GridError, match="invertible 4x4") as caught:
        Grid((2, 2, 2), affine)
    assert found in caught.value.found
    with pytest.raises(GridError):
        Volume(np.zeros((2, 2, 2)), affine)


@pytest.mark.parametrize(("angle", "singular"), [(1e-5, False), (1e-7, True)])
def test_two_axes_that_nearly_meet(angle, singular):
    affine = np.eye(4)
    affine[:2, 1] = math.cos(angle), math.sin(angle)
    if singular:
        with pytest.raises(GridError, match="singular"):
            Grid((2, 2, 2), affine)
    else:
        assert Grid((2, 2, 2), affine).is_sheared


@pytest.mark.parametrize("scale", [1e-4, 1e-3, 1e4])
def test_tiny_and_huge_voxels_are_not_singular(scale):
    grid = Grid((2, 2, 2), affine_of(rotation((10, 20, 30)), (scale, scale, scale)))
    assert grid.voxel_volume_ml == pytest.approx(scale**3 / 1000)


@pytest.mark.parametrize(
    "shape", [(), (2, 2), (2, 2, 2, 2), (2, 0, 2), (2, -1, 2), (2.5, 2, 2), (2, 2, float("nan"))]
)
def test_shapes_that_are_not_three_positive_integers_are_refused(shape):
    with pytest.raises(GridError, match="three positive sizes"):
        Grid(shape, np.eye(4))


def test_numpy_integers_make_a_shape_of_plain_ones():
    shape = Grid(tuple(np.array([2, 3, 4], dtype=np.int16)), np.eye(4)).shape
    assert shape == (2, 3, 4)
    assert {type(size) for size in shape} == {int}


@pytest.mark.parametrize("shape", [(4,), (4, 4), (2, 2, 2, 2)])
def test_arrays_that_are_not_three_dimensional_are_refused_with_their_source(shape):
    with pytest.raises(GridError, match=r"my\.nii: expected a 3-D array") as caught:
        Volume(np.zeros(shape), np.eye(4), source="my.nii")
    assert "x".join(map(str, shape)) in caught.value.found


def test_an_empty_array_is_refused():
    with pytest.raises(GridError):
        Volume(np.zeros((2, 0, 2)), np.eye(4))


def test_an_affine_is_copied_and_cannot_be_changed():
    affine = np.eye(4)
    volume = Volume(np.zeros((2, 2, 2)), affine)
    affine[0, 3] = 7
    assert volume.affine[0, 3] == volume.grid.affine[0, 3] == 0
    with pytest.raises(ValueError, match="read-only"):
        volume.affine[0, 0] = 2
    with pytest.raises(AttributeError):
        volume.grid.shape = (1, 1, 1)


def test_an_affine_of_integers_or_float32_becomes_float64():
    assert Grid((1, 1, 1), np.eye(4, dtype=np.int8)).affine.dtype == np.float64
    assert Grid((1, 1, 1), np.eye(4, dtype=np.float32).tolist()).affine.dtype == np.float64


def test_a_volume_has_the_spacing_and_shape_of_its_grid():
    volume = Volume(np.zeros((2, 3, 4)), affine_of(rotation((5, 6, 7)), (1, 2, 3)))
    np.testing.assert_allclose(volume.spacing_mm, (1, 2, 3))
    assert volume.grid.shape == (2, 3, 4)


# --- integer types ---


@pytest.mark.parametrize(
    ("largest", "kind"),
    [
        (0, np.uint8),
        (255, np.uint8),
        (256, np.uint16),
        (65_535, np.uint16),
        (65_536, np.uint32),
        (2**32 - 1, np.uint32),
        (2**32, np.uint64),
        (2**64 - 1, np.uint64),
    ],
)
def test_smallest_unsigned_type(largest, kind):
    assert smallest_unsigned(largest) is kind


@pytest.mark.parametrize("largest", [-1, 2**64])
def test_what_no_unsigned_type_holds_is_refused(largest):
    with pytest.raises(ValueError, match=f"no unsigned integer type holds {largest}"):
        smallest_unsigned(largest)


# --- findings ---


def test_a_finding_reads_well_with_and_without_a_place():
    finding = Finding(FindingCode.NO_ORIENTATION, "axes assumed")
    assert str(finding) == "no-orientation: axes assumed"
    assert str(Finding(FindingCode.DAMAGED_FILE, "cut short", "slice 3")) == "damaged-file: cut short (slice 3)"


def test_codes_are_lower_case_words_and_unique():
    codes = [code.value for code in FindingCode]
    assert len(set(codes)) == len(codes)
    assert all(code.replace("-", "").isalnum() and code.islower() for code in codes)
