"""Image and label at moved positions against torch, scipy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import affine_transform, map_coordinates
from torch.nn import functional as F

from medseg.data.augment import Augmentation, draw, sampling
from medseg.data.augment.sampling import resample


def batch(*spatial: int, channels: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(channels, *spatial, generator=generator), torch.randint(0, 5, spatial, generator=generator)


def moved(image, label, matrix, shift=None) -> tuple[torch.Tensor, torch.Tensor]:
    image, label = image.clone(), label.clone()
    resample(image, label, np.asarray(matrix, float), shift)
    return image, label


def turn(angle: float, plane: tuple[int, int] = (0, 1), dims: int = 3) -> np.ndarray:
    matrix = np.eye(dims)
    matrix[np.ix_(plane, plane)] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


def ball(shape, centre, radius_mm: float, spacing) -> torch.Tensor:
    index = np.stack(np.indices(shape), -1)
    distance = np.linalg.norm((index - np.array(centre)) * spacing, axis=-1)
    return torch.from_numpy(np.clip(radius_mm + 0.5 - distance, 0, 1).astype(np.float32))


def centroid(weights: torch.Tensor) -> np.ndarray:
    values = weights.numpy().astype(np.float64)
    return np.array([(values * grid).sum() / values.sum() for grid in np.indices(values.shape)])


@pytest.mark.parametrize("spatial", [(9, 8), (9, 8, 7), (1, 6, 6), (5, 1)])
def test_no_movement_changes_not_a_bit(spatial):
    image, label = batch(*spatial)
    new_image, new_label = moved(image, label, np.eye(len(spatial)))
    assert torch.equal(new_image, image)
    assert torch.equal(new_label, label)
    new_image, new_label = moved(image, label, np.eye(len(spatial)), torch.zeros(len(spatial), *spatial))
    assert torch.equal(new_image, image)
    assert torch.equal(new_label, label)


@pytest.mark.parametrize("plane", [(0, 1), (1, 2), (0, 2)])
@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize("size", [8, 9])
def test_quarter_turns_are_rot90(plane, quarters, size):
    image, label = batch(size, size, size)
    new_image, new_label = moved(image, label, turn(quarters * np.pi / 2, plane))
    axes = [axis + 1 for axis in plane]
    torch.testing.assert_close(new_image, image.rot90(-quarters, axes), atol=1e-5, rtol=0)
    assert torch.equal(new_label, label.rot90(-quarters, plane))


@settings(max_examples=40, deadline=None)
@given(
    spatial=st.sampled_from([(9, 9), (12, 7), (8, 8, 8), (11, 8, 6), (3, 17, 1)]),
    spacing=st.sampled_from([(1.0, 1.0, 1.0), (0.7, 1.5, 2.0), (1.0, 1.0, 4.0)]),
    index=st.integers(0, 1000),
    degrees=st.sampled_from([15, 90]),
)
def test_a_drawn_matrix_moves_as_scipy_does(spatial, spacing, index, degrees):
    a = Augmentation(preset="none", rotation_probability=1, scaling_probability=1, rotation_degrees=degrees)
    matrix = draw(a, (1, *spatial), spacing[: len(spatial)], (0, 0, index)).matrix
    image, label = batch(*spatial)
    new_image, new_label = moved(image, label, matrix)
    centre = (np.array(spatial) - 1) / 2
    offset = centre - matrix @ centre
    for channel in range(2):
        source = image[channel].numpy().astype(np.float64)
        expected = affine_transform(source, matrix, offset, order=1, mode="nearest")
        np.testing.assert_allclose(new_image[channel], expected, atol=2e-5)
    source = np.moveaxis(np.indices(spatial), 0, -1) @ matrix.T + offset
    inside = ((source > -0.49) & (source < np.array(spatial) - 0.51)).all(-1)
    outside = ((source < -0.51) | (source > np.array(spatial) - 0.49)).any(-1)
    clear = inside & (np.abs(source % 1 - 0.5) > 1e-3).all(-1)
    nearest = label.numpy()[tuple(np.moveaxis(np.rint(source[clear]).astype(int), -1, 0))]
    np.testing.assert_array_equal(new_label.numpy()[clear], nearest)
    assert not new_label.numpy()[outside].any()


@pytest.mark.parametrize("spatial", [(12, 9), (10, 9, 8)])
def test_scaling_and_shifts_are_scipys_and_torchs(spatial):
    dims = len(spatial)
    image, label = batch(*spatial)
    generator = torch.Generator().manual_seed(2)
    shift = torch.rand(dims, *spatial, generator=generator) * 4 - 2
    matrix = np.eye(dims) * 1.3
    new_image, new_label = moved(image, label, matrix, shift)
    centre = ((np.array(spatial) - 1) / 2).reshape(-1, *[1] * dims)
    where = 1.3 * (np.indices(spatial) - centre) + centre + shift.numpy()
    for channel in range(2):
        expected = map_coordinates(image[channel].numpy().astype(float), where, order=1, mode="nearest")
        np.testing.assert_allclose(new_image[channel], expected, atol=2e-5)
    sizes = torch.tensor(spatial[::-1])
    grid = (2 * torch.from_numpy(where[::-1].copy()).movedim(0, -1) + 1) / sizes - 1
    theirs = F.grid_sample(image[None].double(), grid[None], padding_mode="border", align_corners=False)[0]
    torch.testing.assert_close(new_image, theirs.float(), atol=2e-5, rtol=0)
    nearest = F.grid_sample(label[None, None].double(), grid[None], mode="nearest", align_corners=False)[0, 0]
    assert torch.equal(new_label, nearest.long())


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.6, 1.3)])
@pytest.mark.parametrize("shape", [(32, 32, 32), (40, 24, 30)])
def test_a_ball_stays_a_ball_of_the_scaled_size_and_the_label_goes_with_it(shape, spacing):
    a = Augmentation(
        preset="none", rotation_probability=1, scaling_probability=1, rotation_degrees=25, scale=(0.8, 1.2)
    )
    centre = np.array(shape) / 2 + (3, -2, 1.5)
    soft = ball(shape, tuple(centre), 6, spacing)
    label = (soft > 0.5).long()
    for index in range(4):
        matrix = draw(a, (1, *shape), spacing, (1, 2, index)).matrix
        image, classes = moved(soft[None], label, matrix)
        middle = (np.array(shape) - 1) / 2
        expected = middle + np.linalg.solve(matrix, centre - middle)
        for weights in (image[0], classes):
            np.testing.assert_allclose(centroid(weights), expected, atol=0.15)
        factor = 1 / np.linalg.det(matrix)
        assert image.sum() == pytest.approx(float(soft.sum()) * factor, rel=0.03)
        assert classes.sum() == pytest.approx(float(label.sum()) * factor, rel=0.05)
        around = (np.stack(np.indices(shape), -1) - expected) * spacing
        values = image[0].numpy().astype(np.float64)
        moments = np.einsum("ijk,ijka,ijkb->ab", values, around, around) / values.sum()
        widths = np.linalg.eigvalsh(moments)
        assert widths.max() / widths.min() < 1.06  # an ellipsoid would show here


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_labels_take_no_new_value_and_background_comes_from_outside(dtype):
    label = torch.full((10, 10, 10), 7, dtype=dtype)
    label[3:6] = 250
    image, classes = moved(torch.full((1, 10, 10, 10), 2.5), label, turn(0.6) @ turn(0.5, (1, 2)))
    assert classes.dtype == dtype
    assert set(classes.unique().tolist()) == {0, 7, 250}
    torch.testing.assert_close(image, torch.full_like(image, 2.5))  # the image takes the border's value


@pytest.mark.parametrize("spatial", [(13, 10), (13, 6, 5)])
def test_the_size_of_the_parts_changes_nothing(monkeypatch, spatial):
    image, label = batch(*spatial)
    matrix = turn(0.4, (0, 1), len(spatial)) * 1.1
    shift = torch.rand(len(spatial), *spatial)
    whole = moved(image, label, matrix, shift)
    monkeypatch.setattr(sampling, "_VOXELS_AT_ONCE", 70)
    parts = moved(image, label, matrix, shift)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 5.0)])
def test_the_largest_deformation_allowed_folds_nowhere_and_keeps_its_limits(spacing):
    a = Augmentation(preset="none", elastic_probability=1, elastic_displacement=(0.4, 0.4), elastic_cells=4)
    shape = (32, 28, 24)
    for index in range(5):
        field = draw(a, (1, *shape), spacing, (0, 0, index)).elastic
        shift = field.on_voxels(shape, torch.device("cpu")).numpy().astype(np.float64)
        gradients = np.stack([np.stack(np.gradient(component), 0) for component in shift], 0)
        jacobian = np.linalg.det(np.moveaxis(gradients, (0, 1), (-2, -1)) + np.eye(3))
        assert jacobian.min() > 0
        assert np.abs(shift).max() > 1  # it does deform
        cell_mm = max(n * mm for n, mm in zip(shape, spacing, strict=True)) / 4
        assert (np.abs(shift) * np.reshape(spacing, (3, 1, 1, 1))).max() <= 0.4 * cell_mm + 1e-6
