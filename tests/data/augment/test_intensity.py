"""Changes of intensities against their formulas and MONAI's; nothing ever becomes NaN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import AdjustContrast, ScaleIntensityFixedMean

from medseg.data.augment.intensity import add_noise, change_bias, change_contrast, change_gamma


def patch(*shape: int) -> torch.Tensor:
    return torch.randn(shape or (1, 7, 6, 5), generator=torch.Generator().manual_seed(3)) * 2 + 1


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("gamma", [0.5, 0.7, 1.0, 1.5, 3.0])
def test_gamma_is_a_power_law_that_keeps_mean_and_deviation(gamma, inverted):
    x = patch()
    old = x.numpy().astype(np.float64) * (-1 if inverted else 1)
    power = ((old - old.min()) / np.ptp(old)) ** gamma
    expected = (power - power.mean()) / power.std() * old.std() + old.mean()
    change_gamma(x, gamma, inverted=inverted)
    np.testing.assert_allclose(x, expected * (-1 if inverted else 1), atol=2e-5)


@pytest.mark.parametrize("inverted", [False, True])
def test_gamma_is_monais(inverted):
    x = patch()
    expected = AdjustContrast(1.4, invert_image=inverted, retain_stats=True)(x)
    change_gamma(x, 1.4, inverted=inverted)
    torch.testing.assert_close(x, torch.as_tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.4])
def test_contrast_is_about_the_mean_and_stays_within_the_range(factor):
    x = patch()
    old = x.numpy().copy()
    change_contrast(x, factor)
    expected = ((old - old.mean()) * factor + old.mean()).clip(old.min(), old.max())
    np.testing.assert_allclose(x, expected, atol=1e-5)


def test_contrast_before_the_range_is_monais():
    x = patch()
    scaled = ScaleIntensityFixedMean(-0.3, preserve_range=True, fixed_mean=True)(x.clone())
    change_contrast(x, 0.7)
    torch.testing.assert_close(x, torch.as_tensor(scaled), atol=1e-4, rtol=0)


def test_noise_has_its_standard_deviation_and_its_seed():
    one, two, three = (torch.zeros(2, 20, 20, 20) for _ in range(3))
    add_noise(one, 0.1, 4)
    add_noise(two, 0.1, 4)
    add_noise(three, 0.1, 5)
    assert one.std() == pytest.approx(0.1, rel=0.02)
    assert one.mean().abs() < 0.002
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert torch.corrcoef(one.flatten(1))[0, 1].abs() < 0.05  # each channel has its own


def test_bias_multiplies_the_distance_to_the_minimum():
    x = patch()
    old, factor = x.clone(), torch.linspace(-0.3, 0.3, 5).expand(1, 7, 6, 5)
    change_bias(x, factor)
    torch.testing.assert_close(x - old.min(), (old - old.min()) * factor.exp(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", [0.0, -3.5, 1e4, 1e-30])
def test_a_constant_channel_stays_finite_and_constant(value):
    x = torch.full((1, 6, 5, 4), value)
    for change in (
        lambda x: change_contrast(x, 1.3),
        lambda x: change_contrast(x, 0.7),
        lambda x: change_gamma(x, 0.5),
        lambda x: change_gamma(x, 1.5, inverted=True),
        lambda x: change_bias(x, torch.full(x.shape, 0.3)),
    ):
        change(x)
        torch.testing.assert_close(x, torch.full_like(x, value))


@pytest.mark.parametrize("gamma", [0.7, 1.5])
@pytest.mark.parametrize("inverted", [False, True])
def test_gamma_of_one_voxel_that_differs_and_of_hardly_any_range_is_finite(gamma, inverted):
    for size in (1e-38, 1e-7, 1.0, 1e30):
        x = torch.zeros(1, 8, 8, 8)
        x[0, 1, 2, 3] = size
        change_gamma(x, gamma, inverted=inverted)
        assert x.isfinite().all()
        # two values only: mean and deviation kept keep both
        assert x.amax() == pytest.approx(size, rel=1e-3)
        assert x[0, 0, 0, 0].abs() < 1e-3 * size


def test_views_are_changed_in_place():
    whole = patch(3, 7, 6, 5)
    old = whole.clone()
    change_gamma(whole[1:2], 1.3)
    change_contrast(whole[1:2], 1.3)
    assert torch.equal(whole[0], old[0])
    assert torch.equal(whole[2], old[2])
    assert not torch.equal(whole[1], old[1])
