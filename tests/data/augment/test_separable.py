"""Blur, loss of resolution and splines against scipy, torch and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from medseg.data.augment.separable import along_axes, blur, lower_resolution
from medseg.data.augment.smooth_field import SmoothField, random_field

CPU = torch.device("cpu")


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(2, 7, 6), (3, 5, 7, 6)])
def test_along_axes_is_einsum(shape):
    x, rng = noise(*shape), np.random.default_rng(0)
    matrices = [rng.normal(size=(n + 1 + axis, n)) for axis, n in enumerate(shape[1:])]
    letters = "ijk"[: len(matrices)]
    terms = ",".join(f"{new}{old}" for new, old in zip("abc", letters, strict=False))
    expected = np.einsum(f"z{letters},{terms}->z{'abc'[: len(matrices)]}", x.numpy().astype(float), *matrices)
    np.testing.assert_allclose(along_axes(x, matrices), expected, atol=1e-4)
    assert along_axes(x, [None] * len(matrices)) is x
    only_last = along_axes(x, [*[None] * (len(matrices) - 1), matrices[-1]])
    np.testing.assert_allclose(only_last, x.numpy() @ matrices[-1].T, atol=1e-4)


@pytest.mark.parametrize("sigmas", [(0.5, 1.0), (1.7, 0.0), (0.6, 0.8, 1.0), (0.0, 0.0, 2.5), (3.0, 3.0, 3.0)])
def test_blur_is_scipys(sigmas):
    x = noise(2, 12, 9, 7)[..., : 7 if len(sigmas) == 3 else None]
    x = x if len(sigmas) == 3 else x[..., 0]
    for old, new in zip(x, blur(x, sigmas), strict=True):
        np.testing.assert_allclose(new, gaussian_filter(old.numpy(), sigmas, mode="nearest"), atol=2e-6)


@pytest.mark.parametrize("shape", [(2, 13, 16), (1, 16, 13, 10), (2, 5, 4, 1)])
@pytest.mark.parametrize("share", [0.5, 0.61, 0.97, 0.05])
def test_lower_resolution_is_torchs_nearest_and_linear(shape, share):
    x = noise(*shape)
    few = [max(round(n * share), 1) for n in shape[1:]]
    mode = {3: "bilinear", 4: "trilinear"}[len(shape)]
    expected = F.interpolate(F.interpolate(x[None], few, mode="nearest-exact"), shape[1:], mode=mode)[0]
    torch.testing.assert_close(lower_resolution(x, [share] * len(few)), expected, atol=1e-5, rtol=0)


def test_lower_resolution_leaves_axes_alone():
    x = noise(1, 9, 8, 7)
    assert lower_resolution(x, (1, 1, 1)) is x
    thick = lower_resolution(x, (0.5, 1, 1))
    for j in range(8):
        torch.testing.assert_close(thick[:, :, j], lower_resolution(x[:, :, j], (0.5, 1)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("cells", [1, 2, 5])
def test_a_field_is_scipys_uniform_cubic_spline(cells):
    n, cell = 23, 23 / cells
    control = np.random.default_rng(0).normal(size=(1, cells + 3))
    knots = np.arange(-3, cells + 4)
    expected = BSpline(knots, control[0], 3)((np.arange(n) + 0.5) / cell)
    np.testing.assert_allclose(SmoothField(control, (cell,)).on_voxels((n,), CPU)[0], expected, atol=1e-5)


def test_a_random_field_has_cells_of_one_size_and_stays_within_its_limits():
    rng = np.random.default_rng(0)
    field = random_field(rng, (20, 10, 6), (1.0, 1.5, 5.0), cells=6, limits=(0.5, 2.0))
    assert field.cell == (5.0, 5.0 / 1.5, 1.0)  # 30 mm make six cells of 5 mm
    assert field.control.shape == (2, 4 + 3, 3 + 3, 6 + 3)
    values = field.on_voxels((20, 10, 6), CPU)
    assert values.shape == (2, 20, 10, 6)
    assert 0.2 < values[0].abs().max() <= 0.5
    assert 0.8 < values[1].abs().max() <= 2.0


def test_a_constant_field_is_constant():
    field = SmoothField(np.full((1, 5, 6), 0.7), (4.0, 3.0))
    torch.testing.assert_close(field.on_voxels((8, 9), CPU), torch.full((1, 8, 9), 0.7))
