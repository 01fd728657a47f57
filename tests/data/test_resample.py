"""Resampling against MONAI's Spacingd, scipy, and grids whose answer is known."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Spacingd
from scipy.ndimage import map_coordinates

from medseg.data.resample import GridMap, resample, resample_axes
from medseg.data.spacing import ExactSpacingd, spaced_grid
from medseg.volume import Grid

SPACINGS = [((0.8, 0.8, 2.5), (1.5, 1.5, 1.5)), ((3, 3, 3), (1.1, 2.0, 1.7)), ((1, 1, 5), (2, 0.7, 5))]


def rotation(degrees: float) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    affine = np.eye(4)
    affine[:2, :2] = [[c, -s], [s, c]]
    return affine


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("old", "new"), SPACINGS)
def test_equals_monai_spacingd(old, new, order):
    values = np.random.default_rng(0).random((2, 41, 37, 23), dtype=np.float32)
    values = np.asarray(values, order=order)
    affine = rotation(20) @ np.diag([*old, 1.0])
    affine[:3, 3] = (-100, 35, 7)
    x = MetaTensor(torch.from_numpy(values), affine=affine)
    expected = Spacingd(["image"], new, mode="bilinear")({"image": x})["image"]
    got = ExactSpacingd(["image"], new)({"image": x})["image"]
    torch.testing.assert_close(got.as_tensor(), expected.as_tensor(), atol=1e-5, rtol=0)
    np.testing.assert_allclose(got.affine, expected.affine, atol=1e-9)


def test_labels_equal_monai_nearest_and_take_no_new_value():
    labels = np.random.default_rng(0).choice([0, 3, 7, 200], (41, 37, 23)).astype(np.int16)
    x = MetaTensor(torch.from_numpy(labels)[None], affine=np.diag([0.83, 0.83, 2.51, 1]))
    got = ExactSpacingd(["label"], (1.37, 1.19, 1.73))({"label": x})["label"]
    expected = Spacingd(["label"], (1.37, 1.19, 1.73), mode="nearest")({"label": x})["label"]
    assert got.dtype == torch.int16
    assert (got.as_tensor() == expected.as_tensor()).float().mean() > 0.9999
    assert set(got.unique().tolist()) <= {0, 3, 7, 200}


@settings(max_examples=40, deadline=None)
@given(
    permutation=st.permutations(range(3)),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    scale=st.tuples(*[st.floats(0.4, 2.5)] * 3),
    shift=st.tuples(*[st.floats(-5, 5)] * 3),
)
def test_separable_equals_scipy_at_any_axis_aligned_grid(permutation, signs, scale, shift):
    source = Grid((9, 7, 8), np.diag([1.0, 2.0, 1.5, 1.0]))
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, permutation] * np.array(signs) * np.array(scale)
    affine[:3, 3] = np.array([4, 6, 5]) + shift
    grids = GridMap(source, Grid((6, 5, 7), affine))
    values = np.random.default_rng(1).random(source.shape)
    index = np.indices(grids.target.shape).reshape(3, -1)
    coordinates = grids.matrix[:3, :3] @ index + grids.matrix[:3, 3:]
    expected = map_coordinates(values, coordinates, order=1, mode="nearest").reshape(grids.target.shape)
    assert grids.target_axes is not None
    got = resample(torch.from_numpy(values)[None], grids)[0]
    np.testing.assert_allclose(got, expected, atol=2e-5)  # coordinates are integers to 1e-5


@pytest.mark.parametrize("nearest", [False, True])
def test_rotated_grid_is_sampled_where_scipy_samples_it(nearest):
    source = Grid((12, 11, 10), np.eye(4))
    affine = rotation(30)
    affine[:3, :3] = affine[:3, :3] @ np.array([[1, 0, 0.2], [0, 1, 0], [0, 0, 1]])  # and sheared
    affine[:3, 3] = (4, 1, 0.3)
    grids = GridMap(source, Grid((6, 6, 6), affine))
    assert grids.target_axes is None
    values = np.random.default_rng(1).random(source.shape).astype(np.float32)
    index = np.indices(grids.target.shape).reshape(3, -1)
    coordinates = grids.matrix[:3, :3] @ index + grids.matrix[:3, 3:]
    expected = map_coordinates(values, coordinates, order=0 if nearest else 1, mode="nearest")
    got = resample(torch.from_numpy(values)[None], grids, nearest=nearest)[0].numpy().reshape(-1)
    half_way = np.abs(coordinates % 1 - 0.5).min(axis=0) < 1e-3
    compared = ~half_way if nearest else np.full(len(got), True)
    np.testing.assert_allclose(got[compared], expected[compared], atol=1e-5)


def test_a_linear_ramp_in_millimetres_survives_any_separable_map():
    source = Grid((20, 18, 16), np.array([[-0.9, 0, 0, 9], [0, 0, 1.3, -7], [0, 2.1, 0, 3], [0, 0, 0, 1.0]]))
    target = spaced_grid(source, (1.0, 1.1, "keep"))
    weights = np.array([1.0, -2.0, 0.5])

    def ramp(grid: Grid) -> np.ndarray:
        return grid.world(np.moveaxis(np.indices(grid.shape), 0, -1)) @ weights

    got = resample(torch.from_numpy(ramp(source))[None], GridMap(source, target))[0].numpy()
    inside = tuple(slice(0, n - 1) for n in target.shape)
    np.testing.assert_allclose(got[inside], ramp(target)[inside], atol=1e-9)


def test_memory_order_is_kept():
    x = torch.from_numpy(np.asfortranarray(np.random.default_rng(0).random((8, 9, 10))))[None]
    y = resample_axes(x, [np.linspace(0, n - 1, 6) for n in (8, 9, 10)])
    assert y.stride()[1] == 1


def test_sheared_grid_becomes_right_angled_and_covers_the_image():
    affine = np.array([[1, 0, 0, 0], [0, 1, 0.4, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])
    source = Grid((10, 12, 8), affine)
    target = spaced_grid(source, (1, 1, 2))
    assert source.is_sheared
    assert not target.is_sheared
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in source.shape], indexing="ij")).reshape(3, -1).T
    inside = target.index(source.world(corners))
    assert (inside > -0.51).all()
    assert (inside < np.array(target.shape) - 0.49).all()
