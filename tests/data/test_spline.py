"""Splines between grids with the same outer faces, against scipy, which nnU-Net's resampling calls."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medseg.data.preprocessing import Preprocessing
from medseg.data.resample import nearest_planes
from medseg.data.spline import (
    centres,
    faced_grid,
    header_spacing,
    resize,
    resize_labels,
    separate_axis,
    spline_matrix,
)
from medseg.data.transforms import build_transforms, prepare
from medseg.volume import Grid, Volume
from tests.affines import affine_of, rotation

PLAIN = {"intensity": [{"kind": "plain"}], "spline": {}}


def zoomed(array: np.ndarray, shape: tuple[int, ...], order: int = 3) -> np.ndarray:
    """What ``skimage.transform.resize`` does: zoom by faces, then clip to the values of the image."""
    factors = [new / old for new, old in zip(shape, array.shape, strict=True)]
    out = ndimage.zoom(array.astype(float), factors, order=order, mode="nearest", grid_mode=True)
    return out.clip(array.min(), array.max())


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(1, 14)] * 3), st.tuples(*[st.integers(1, 30)] * 3))
def test_resized_as_scipy_does(old, new):
    array = noise(2, *old)
    got = resize(torch.from_numpy(array), new)
    expected = np.stack([zoomed(channel, new) for channel in array])
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("planes", [4, 8, 16, 21])
def test_planes_apart(axis, planes):
    """Planes are resized on their own, each within its own values; then the nearest is taken."""
    old, new = [13, 11, 12], [17, 9, 20]
    old[axis], new[axis] = 8, planes
    array = noise(*old) * np.linspace(0.1, 3, 8).reshape([-1 if a == axis else 1 for a in range(3)])
    inplane = [n for a, n in enumerate(new) if a != axis]
    resized = np.stack([zoomed(plane, inplane) for plane in np.moveaxis(array, axis, 0)], axis=axis)
    where = np.indices(new).astype(float)
    where[axis] = (where[axis] + 0.5) * (8 / planes) - 0.5
    expected = ndimage.map_coordinates(resized, where, order=0, mode="nearest")
    got = resize(torch.from_numpy(array.astype(np.float32))[None], tuple(new), axis)
    np.testing.assert_allclose(got[0].numpy(), expected, atol=2e-5)


def test_half_way_the_higher_plane_is_taken():
    assert nearest_planes(centres(8, 4), 8).tolist() == [1, 3, 5, 7]
    assert nearest_planes(centres(4, 8), 4).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert nearest_planes(np.array([0.4999999, 0.49]), 2, tolerance=1e-6).tolist() == [1, 0]


def test_rows_of_the_matrix_sum_to_one_and_nothing_changes_without_a_change():
    np.testing.assert_allclose(spline_matrix(40, 23).sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(spline_matrix(9, 9), np.eye(9), atol=1e-12)
    x = torch.from_numpy(noise(1, 4, 5, 6))
    assert resize(x, (4, 5, 6)) is x


@pytest.mark.parametrize("new", [(11, 15, 6), (13, 7, 10), (14, 12, 18), (4, 3, 3)])
def test_labels_are_those_with_the_most(new):
    """As batchgenerators says it: the largest share; where it is shared, the nearest label that has it."""
    labels = np.random.default_rng(0).integers(-1, 3, (7, 6, 9))
    shares = np.stack([zoomed((labels == value).astype(float), new, order=1) for value in range(-1, 3)])
    factors = [n / o for n, o in zip(new, labels.shape, strict=True)]
    nearest = ndimage.zoom(labels, factors, order=0, mode="nearest", grid_mode=True)
    own = np.take_along_axis(shares, (nearest + 1)[None], axis=0)[0]
    largest = shares.max(axis=0)
    first = (shares >= largest - 1e-9).argmax(axis=0) - 1
    got = resize_labels(torch.from_numpy(labels)[None], new)[0].numpy()
    np.testing.assert_array_equal(got, np.where(own >= largest - 1e-9, nearest, first))


def test_labels_of_planes_apart():
    labels = np.random.default_rng(1).integers(0, 4, (5, 6, 4))
    planes = [resize_labels(torch.from_numpy(one)[None, None], (1, 9, 7))[0, 0] for one in labels]
    got = resize_labels(torch.from_numpy(labels)[None], (10, 9, 7), separate=0)[0]
    np.testing.assert_array_equal(got, np.stack(planes)[np.arange(10) // 2])


@pytest.mark.parametrize(
    ("first", "second", "forced", "axis"),
    [
        ((5, 1, 1), (1, 1, 1), None, 0),
        ((1, 1, 1), (1, 4, 1), None, 1),
        ((5, 1, 1), (1, 4, 1), None, 0),
        ((3, 1, 1), (1, 1, 1), None, None),
        ((5, 5, 1), (1, 1, 1), None, None),
        ((5, 1, 1), (1, 1, 1), False, None),
        ((2, 1, 1), (1, 1, 9), True, 0),
        ((1, 1, 1), (1, 1, 9), True, None),
    ],
)
def test_the_axis_that_is_kept_apart(first, second, forced, axis):
    """nnU-Net's ``determine_do_sep_z_and_axis``."""
    assert separate_axis(first, second, forced) == axis


def test_a_grid_has_the_outer_faces_of_the_other():
    source = Grid((30, 35, 9), affine_of(rotation((20, 30, -15)), (0.9375, 1.0, 4.5), (-3, 4, 5)))
    target = faced_grid(source, (0.7, 2.0, 3.0))
    assert target.shape == (40, 18, 14)  # 17.5 and 13.5 go to the even number
    ends = [np.array([(-0.5,) * 3, np.array(g.shape) - 0.5]) for g in (source, target)]
    np.testing.assert_allclose(source.world(ends[0]), target.world(ends[1]), atol=1e-9)


def test_spacing_of_an_oblique_affine_is_that_of_the_header():
    stored = affine_of(rotation((11, 7, -25)), (0.9375, 0.9375, 4.5)).astype(np.float32)
    grid = Grid((2, 2, 2), stored.astype(np.float64))
    assert grid.spacing_mm != (0.9375, 0.9375, 4.5)
    assert header_spacing(grid) == (0.9375, 0.9375, 4.5)
    exact = Grid((2, 2, 2), np.diag([np.float32(0.7421875), np.float32(0.7), 3, 1]))
    assert header_spacing(exact) == exact.spacing_mm


def test_axes_of_the_network_and_of_the_file():
    """Nothing moves in the patient; the network sees the file's own order of voxels, or another one."""
    array = noise(6, 5, 4)
    volume = Volume(array, affine_of(np.diag([-1, -1, 1]), (1.0, 2.0, 3.0), (7, 8, 9)))
    turns = {"stored": array, "LPS": array, "RAS": array[::-1, ::-1], "RPI": array[::-1, :, ::-1]}
    for orientation, axes in product(turns, [(0, 1, 2), (2, 1, 0), (1, 2, 0)]):
        rules = PLAIN | {"orientation": orientation, "axes": axes, "spacing_mm": ["keep"] * 3}
        got = prepare(build_transforms(Preprocessing.model_validate(rules), 1), [volume])
        expected = turns[orientation]
        np.testing.assert_array_equal(got.image[0], expected.transpose(axes))
        index = np.argwhere(array > 1.5)
        back = np.rint(got.grid.index(volume.grid.world(index))).astype(int)
        np.testing.assert_array_equal(got.image[0].numpy()[tuple(back.T)], array[tuple(index.T)])


def test_axes_and_crops_that_contradict_are_refused():
    for wrong in (
        {"axes": (0, 1, 1)},
        {"crop_nonzero": True, "crop_above": 0.0},
        {"orientation": "stored"},
        {"orientation": "SAR"},
    ):
        with pytest.raises(ValueError, match=r"axes must name|give one|needs spacing_mm|should match pattern"):
            Preprocessing.model_validate(PLAIN | wrong)


def test_spacing_to_keep_and_the_axis_of_logits():
    volume = Volume(noise(6, 5, 4), np.diag([1.0, 1.0, 5.0, 1.0]))
    for spacing, shape, axis in ((("keep", 0.5, "keep"), (6, 10, 4), 2), ((1, 4, 5), (6, 1, 4), 2)):
        rules = Preprocessing.model_validate(PLAIN | {"spacing_mm": spacing})
        got = prepare(build_transforms(rules, 1), [volume], Volume(np.ones((6, 5, 4), np.uint8), volume.affine))
        assert (tuple(got.image.shape[1:]), got.nearest_axis) == (shape, axis)
        assert got.label.shape == shape
