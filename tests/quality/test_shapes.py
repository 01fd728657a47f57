"""Shapes of labels against loops over voxels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medseg.labels import LabelMap, LabelSet
from medseg.quality.shapes import shapes_of, sides_of
from medseg.volume import Grid, Volume
from tests.affines import affine_of, axis_aligned, invertible

DIRECTIONS = {"right": (1, 0, 0), "left": (-1, 0, 0), "front": (0, 1, 0), "back": (0, -1, 0), "head": (0, 0, 1)}
DIRECTIONS |= {"foot": (0, 0, -1)}


@settings(max_examples=30, deadline=None)
@given(invertible(), st.integers(0, 2**31), st.sampled_from([(1, 2, 9), (3, 250, 70_000)]))
def test_sizes_parts_and_centroids_are_those_of_scipy(affine, seed, values):
    rng = np.random.default_rng(seed)
    labels = LabelSet.from_names(dict(zip(values, "abc", strict=True)))
    array = np.zeros((9, 8, 7), labels.channel_values.dtype, order="F")
    inner = rng.choice([0, *values], p=[0.85, 0.05, 0.05, 0.05], size=(5, 6, 4))
    array[rng.integers(0, 4) :, 1:7, rng.integers(0, 3) :][:5, :, :4] = inner
    made = LabelMap(Volume(array, affine), labels)
    shapes = shapes_of(made)
    assert list(shapes) == [label.name for label in labels if (array == label.index).any()]
    for shape in shapes.values():
        mask = array == shape.label.index
        sizes = np.bincount(ndimage.label(mask, np.ones((3, 3, 3)))[0].ravel())[1:]
        ml = abs(np.linalg.det(affine[:3, :3])) / 1000
        np.testing.assert_allclose(shape.component_ml, np.sort(sizes)[::-1] * ml)
        where = affine[:3, :3] @ np.argwhere(mask).T + affine[:3, 3:]
        np.testing.assert_allclose(shape.centroid_mm, where.mean(axis=1), atol=1e-4, rtol=1e-6)
        assert shape.voxels == mask.sum()
        assert shape.volume_ml == pytest.approx(made.volume_ml(shape.label))
        assert shape.share_apart == pytest.approx(1 - sizes.max() / sizes.sum())


@pytest.mark.parametrize("axes", axis_aligned(), ids=range(48))
def test_faces_are_named_after_the_side_of_the_patient(axes):
    array = np.zeros((7, 9, 11), np.uint8, order="F")
    affine = affine_of(axes, (1, 2, 3), (5, -8, 13))
    middle = affine[:3, :3] @ (3, 4, 5) + affine[:3, 3]
    for axis, step in [(axis, step) for axis in range(3) for step in (-1, 1)]:
        place = [3, 4, 5]
        place[axis] = 0 if step < 0 else array.shape[axis] - 1
        array[:] = 0
        array[tuple(place)] = 1
        away = affine[:3, :3] @ place + affine[:3, 3] - middle
        (side,) = [name for name, way in DIRECTIONS.items() if np.dot(away, way) > 1]
        shape = shapes_of(LabelMap(Volume(array, affine), LabelSet.from_names({1: "a"})))["a"]
        assert shape.at_faces == {side: 1}


def test_voxels_on_faces_are_counted_an_edge_for_both():
    array = np.zeros((4, 5, 6), np.uint8, order="F")
    array[0, 1:4, 3:] = 1
    shape = shapes_of(LabelMap(Volume(array, np.eye(4)), LabelSet.from_names({1: "a"})))["a"]
    assert shape.at_faces == {"left": 9, "head": 3}
    assert sides_of(Grid((2, 2, 2), np.eye(4))) == ["left", "right", "back", "front", "foot", "head"]


def test_an_empty_mask_has_no_shapes():
    empty = Volume(np.zeros((4, 5, 6), np.uint8, order="F"), np.eye(4))
    assert shapes_of(LabelMap(empty, LabelSet.from_names({1: "a"}))) == {}


def test_an_axis_of_one_voxel_has_no_faces():
    array = np.ones((4, 5, 1), np.uint8, order="F")
    shape = shapes_of(LabelMap(Volume(array, np.eye(4)), LabelSet.from_names({1: "a"})))["a"]
    assert shape.at_faces == {"left": 5, "right": 5, "back": 4, "front": 4}
