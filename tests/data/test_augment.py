"""Augmentation: keyed, alike for image and label, and equal to scipy where the change is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.ndimage import affine_transform

from medseg.data.augment import Augmentation, Draw, augment, draw

OFF = {
    "affine_probability": 0.0,
    "noise_probability": 0.0,
    "brightness_probability": 0.0,
    "contrast_probability": 0.0,
    "gamma_probability": 0.0,
}
NOTHING = Draw(flips=(), affine=None, noise_std=0.0, noise_seed=0, brightness=1.0, contrast=1.0, gamma=1.0)


def only(**fields) -> Augmentation:
    """Nothing but what the fields turn on."""
    return Augmentation(**OFF | fields)


def batch(*spatial: int, channels: int = 2, count: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(count, channels, *spatial, generator=generator)
    return image, torch.randint(0, 5, (count, *spatial), generator=generator)


def changed(image: torch.Tensor, label: torch.Tensor, *draws: Draw) -> tuple[torch.Tensor, torch.Tensor]:
    return augment(image.clone(), label.clone(), draws)


def in_mm(d: Draw, extent_mm: tuple[float, ...]) -> np.ndarray:
    """The drawn matrix as output to input offset in mm, in the order i, j, k."""
    matrix = d.affine[::-1, :-1][:, ::-1]
    extent = np.array(extent_mm)
    return matrix * extent[:, None] / extent


def ball(
    shape: tuple[int, ...], centre: tuple[float, ...], radius_mm: float, spacing: tuple[float, ...]
) -> torch.Tensor:
    index = np.stack(np.indices(shape), -1)
    distance = np.linalg.norm((index - np.array(centre)) * spacing, axis=-1)
    return torch.from_numpy(np.clip(radius_mm + 0.5 - distance, 0, 1).astype(np.float32))


def centroid(weights: torch.Tensor) -> np.ndarray:
    values = weights.numpy().astype(np.float64)
    return np.array([(values * grid).sum() / values.sum() for grid in np.indices(values.shape)])


# --- drawing ---


def test_the_same_key_draws_the_same_and_another_key_another():
    a = Augmentation(flip_axes=(0, 1, 2), **dict.fromkeys(OFF, 1.0))
    one, two = (draw(a, (1, 2, 3), (5, 6, 7)) for _ in range(2))
    np.testing.assert_array_equal(one.affine, two.affine)
    assert replace(one, affine=None) == replace(two, affine=None)
    others = [draw(a, (1, 2, 3), key) for key in [(5, 6, 7), (4, 6, 7), (5, 7, 6), (5, 6, 8), (5, 5, 7)]]
    assert len({d.brightness for d in others}) == len({d.noise_seed for d in others}) == 5


def test_turning_one_change_off_leaves_the_others_as_they_are():
    everything = Augmentation(flip_axes=(0, 2), **dict.fromkeys(OFF, 1.0))
    full = draw(everything, (1, 1, 1), (1, 2, 3))
    for name, field in [("noise", "noise_std"), ("brightness", "brightness"), ("gamma", "gamma")]:
        less = draw(everything.model_copy(update={f"{name}_probability": 0.0}), (1, 1, 1), (1, 2, 3))
        neutral = getattr(NOTHING, field)
        assert getattr(less, field) == neutral
        assert replace(less, affine=None, **{field: getattr(full, field)}) == replace(full, affine=None)
        np.testing.assert_array_equal(less.affine, full.affine)


def test_how_often_and_how_strong():
    a = Augmentation(
        flip_axes=(0, 2), noise_std=0.2, gamma=(0.5, 2.0), gamma_probability=0.25, noise_probability=1.0
    )
    draws = [draw(a, (1, 1, 1), (0, 0, index)) for index in range(800)]

    def share(values: list[bool]) -> float:
        return sum(values) / len(values)

    assert share([0 in d.flips for d in draws]) == pytest.approx(0.5, abs=0.09)  # five standard deviations
    assert share([2 in d.flips for d in draws]) == pytest.approx(0.5, abs=0.09)
    assert share([d.flips == (0, 2) for d in draws]) == pytest.approx(0.25, abs=0.08)
    assert not any(1 in d.flips for d in draws)
    assert share([d.affine is not None for d in draws]) == pytest.approx(0.3, abs=0.08)
    gammas = [d.gamma for d in draws if d.gamma != 1]
    assert len(gammas) / 800 == pytest.approx(0.25, abs=0.08)
    assert 0.5 <= min(gammas) < 0.6
    assert 1.9 < max(gammas) <= 2.0
    assert 0 <= min(d.noise_std for d in draws) < max(d.noise_std for d in draws) <= 0.2


@pytest.mark.parametrize("extent", [(10.0, 10.0), (40.0, 25.0), (8.0, 8.0, 8.0), (160.0, 90.0, 30.0)])
def test_a_drawn_matrix_is_a_rotation_and_a_scale_in_mm_within_the_limits(extent):
    a = only(affine_probability=1.0, rotation_degrees=20, scale=(0.9, 1.5))
    scales = []
    for index in range(100):
        matrix = in_mm(draw(a, extent, (0, 0, index)), extent)
        scale = 1 / np.cbrt(np.linalg.det(matrix)) if len(extent) == 3 else np.linalg.det(matrix) ** -0.5
        turn = matrix * scale
        np.testing.assert_allclose(turn @ turn.T, np.eye(len(extent)), atol=1e-9)
        assert np.linalg.det(turn) == pytest.approx(1)
        degrees = np.rad2deg(np.arccos(np.clip((np.trace(turn) - (len(extent) - 2)) / 2, -1, 1)))
        assert degrees <= 20 * (1 if len(extent) == 2 else 3) + 1e-6
        scales.append(scale)
    assert 0.9 <= min(scales) < 0.95
    assert 1.42 < max(scales) <= 1.5


@pytest.mark.parametrize(
    "fields",
    [
        {"scale": (0, 1)},
        {"scale": (1.2, 0.8)},
        {"gamma": (-1, 1)},
        {"gamma": (0, 1)},
        {"contrast": (1.5, 0.5)},
        {"flip_axes": (0, 0)},
        {"noise_std": -1},
        {"rotation_degrees": 181},
        {"affine_probability": 1.1},
        {"mirror": 1},
    ],
)
def test_settings_that_cannot_be_drawn_are_refused(fields):
    with pytest.raises(ValidationError):
        Augmentation(**fields)


# --- nothing ---


@pytest.mark.parametrize("spatial", [(7, 6), (7, 6, 5)])
def test_nothing_turned_on_changes_not_a_bit(spatial):
    image, label = batch(*spatial)
    image[0, 0].flatten()[:3] = torch.tensor([0.0, -0.0, 1e-38])
    draws = [draw(only(), spatial, (0, 0, index)) for index in range(3)]
    new_image, new_label = changed(image, label, *draws)
    assert torch.equal(new_image.view(torch.int32), image.view(torch.int32))
    assert torch.equal(new_label, label)


def test_one_patch_of_a_batch_does_not_touch_the_others():
    image, label = batch(8, 7, 6)
    strong = Draw((0, 2), draw(only(affine_probability=1.0), (1, 1, 1), (0,)).affine, 0.3, 5, 1.2, 0.8, 1.3)
    new_image, new_label = changed(image, label, NOTHING, strong, NOTHING)
    for untouched in (0, 2):
        assert torch.equal(new_image[untouched], image[untouched])
        assert torch.equal(new_label[untouched], label[untouched])
    alone = changed(image[1:2], label[1:2], strong)
    assert torch.equal(new_image[1], alone[0][0])
    assert torch.equal(new_label[1], alone[1][0])
    assert not torch.equal(new_image[1], image[1])


# --- flips ---


@pytest.mark.parametrize("flips", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_image_and_label_are_flipped_together(flips):
    image, label = batch(6, 5, 4)
    image[:, 1] = label
    new_image, new_label = changed(image, label, *[replace(NOTHING, flips=flips)] * 3)
    np.testing.assert_array_equal(new_label, np.flip(label.numpy(), [axis + 1 for axis in flips]))
    np.testing.assert_array_equal(new_image, np.flip(image.numpy(), [axis + 2 for axis in flips]))
    assert torch.equal(new_image[:, 1].long(), new_label)


# --- affine ---


@settings(max_examples=25, deadline=None)
@given(
    spatial=st.sampled_from([(9, 9), (12, 7), (8, 8, 8), (11, 8, 6)]),
    spacing=st.sampled_from([(1.0, 1.0, 1.0), (0.7, 1.5, 3.0)]),
    index=st.integers(0, 1000),
    degrees=st.sampled_from([15, 90]),
)
def test_a_drawn_affine_is_scipys(spatial, spacing, index, degrees):
    extent = tuple(n * mm for n, mm in zip(spatial, spacing, strict=False))
    d = draw(only(affine_probability=1.0, rotation_degrees=degrees), extent, (0, 0, index))
    image, label = batch(*spatial, count=1)
    new_image, new_label = changed(image, label, d)
    mm = np.array(spacing[: len(spatial)])
    in_voxels = in_mm(d, extent) * mm / mm[:, None]
    centre = (np.array(spatial) - 1) / 2
    offset = centre - in_voxels @ centre
    for channel in range(2):
        expected = affine_transform(image[0, channel].numpy(), in_voxels, offset, order=1, mode="nearest")
        np.testing.assert_allclose(new_image[0, channel], expected, atol=2e-4)
    source = np.moveaxis(np.indices(spatial), 0, -1) @ in_voxels.T + offset
    inside = ((source > -0.49) & (source < np.array(spatial) - 0.51)).all(-1)
    outside = ((source < -0.51) | (source > np.array(spatial) - 0.49)).any(-1)
    clear = inside & (np.abs(source % 1 - 0.5) > 1e-3).all(-1)
    nearest = label[0].numpy()[tuple(np.moveaxis(np.rint(source[clear]).astype(int), -1, 0))]
    np.testing.assert_array_equal(new_label[0].numpy()[clear], nearest)
    assert not new_label[0].numpy()[outside].any()


@pytest.mark.parametrize("shape", [(32, 32, 32), (40, 24, 30)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.6, 1.3)])
def test_a_ball_stays_a_ball_of_the_scaled_size_and_the_label_goes_with_it(shape, spacing):
    extent = tuple(n * mm for n, mm in zip(shape, spacing, strict=True))
    centre = np.array(shape) / 2 + (3, -2, 1.5)
    soft = ball(shape, tuple(centre), 6, spacing)
    label = (soft > 0.5).long()
    for index in range(4):
        d = draw(only(affine_probability=1.0, rotation_degrees=25, scale=(0.8, 1.2)), extent, (1, 2, index))
        image, moved = changed(soft[None, None], label[None], d)
        matrix = in_mm(d, extent)
        middle = (np.array(shape) - 1) / 2
        expected = middle + np.linalg.solve(matrix, (centre - middle) * spacing) / spacing
        for weights in (image[0, 0], moved[0]):
            np.testing.assert_allclose(centroid(weights), expected, atol=0.15)
        factor = 1 / np.linalg.det(matrix)
        assert image.sum() == pytest.approx(float(soft.sum()) * factor, rel=0.03)
        assert moved.sum() == pytest.approx(float(label.sum()) * factor, rel=0.05)
        around = (np.stack(np.indices(shape), -1) - expected) * spacing
        values = image[0, 0].numpy().astype(np.float64)
        moments = np.einsum("ijk,ijka,ijkb->ab", values, around, around) / values.sum()
        widths = np.linalg.eigvalsh(moments)
        assert widths.max() / widths.min() < 1.06  # an ellipsoid would show here


def test_labels_take_no_new_value_and_background_comes_from_outside():
    label = torch.full((1, 10, 10, 10), 7)
    label[0, 3:6] = 250
    d = draw(only(affine_probability=1.0, rotation_degrees=40), (10, 10, 10), (0, 0, 3))
    image, moved = changed(torch.full((1, 1, 10, 10, 10), 2.5), label, d)
    assert moved.dtype == torch.int64
    assert set(moved.unique().tolist()) == {0, 7, 250}
    torch.testing.assert_close(image, torch.full_like(image, 2.5))  # the image takes the border's value


# --- intensities ---


@pytest.mark.parametrize("gamma", [0.5, 0.7, 1.5, 3.0])
def test_gamma_is_the_power_law_between_minimum_and_maximum(gamma):
    image, label = batch(6, 5, 4, count=1)
    new_image, new_label = changed(image, label, replace(NOTHING, gamma=gamma))
    for old, new in zip(image[0].numpy(), new_image[0].numpy(), strict=True):
        low, high = old.min(), old.max()
        np.testing.assert_allclose(new, ((old - low) / (high - low)) ** gamma * (high - low) + low, atol=1e-5)
        assert new.min() == pytest.approx(low, abs=1e-6)
        assert new.max() == pytest.approx(high, abs=1e-6)
        assert (np.argsort(new.ravel()) == np.argsort(old.ravel())).all()
    assert torch.equal(new_label, label)


@pytest.mark.parametrize("contrast", [0.6, 1.4])
def test_contrast_is_about_the_mean_and_stays_between_minimum_and_maximum(contrast):
    image, label = batch(6, 5, 4, count=1)
    new_image, _ = changed(image, label, replace(NOTHING, contrast=contrast))
    for old, new in zip(image[0].numpy(), new_image[0].numpy(), strict=True):
        expected = ((old - old.mean()) * contrast + old.mean()).clip(old.min(), old.max())
        np.testing.assert_allclose(new, expected, atol=1e-5)
        if contrast > 1:
            assert (new.min(), new.max()) == (old.min(), old.max())


def test_brightness_is_a_factor():
    image, label = batch(6, 5)
    new_image, _ = changed(image, label, *[replace(NOTHING, brightness=1.2)] * 3)
    torch.testing.assert_close(new_image, image * 1.2)


def test_noise_has_its_standard_deviation_and_its_seed():
    image, label = batch(20, 20, 20, count=2)
    quiet = replace(NOTHING, noise_std=0.1, noise_seed=4)
    one, _ = changed(image, label, quiet, quiet)
    two, _ = changed(image, label, quiet, replace(quiet, noise_seed=5))
    noise = one - image
    assert noise.std() == pytest.approx(0.1, rel=0.02)
    assert noise.mean().abs() < 0.002
    torch.testing.assert_close(noise[0], noise[1], atol=1e-6, rtol=0)
    assert torch.equal(one[0], two[0])
    assert not torch.equal(one[1], two[1])
    assert torch.corrcoef(noise[0].flatten(1))[0, 1].abs() < 0.05  # each channel has its own


@pytest.mark.parametrize("value", [0.0, -3.5, 1e4])
def test_a_constant_patch_stays_finite_and_constant(value):
    image = torch.full((1, 1, 6, 5, 4), value)
    strong = replace(NOTHING, contrast=1.3, gamma=0.5)
    new_image, _ = changed(image, torch.zeros(1, 6, 5, 4, dtype=torch.int64), strong)
    torch.testing.assert_close(new_image, image)


@pytest.mark.parametrize("spatial", [(16, 12), (16, 12, 8)])
def test_everything_at_once_is_finite_and_the_same_again(spatial):
    a = Augmentation(flip_axes=tuple(range(len(spatial))), **dict.fromkeys(OFF, 1.0))
    image, label = batch(*spatial)
    draws = [draw(a, spatial, (0, 1, index)) for index in range(3)]
    one, two = (changed(image, label, *draws) for _ in range(2))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert one[0].isfinite().all()
    assert one[0].shape == image.shape
    assert set(one[1].unique().tolist()) <= set(range(5))
