"""The pairwise operator and mean field against a double loop and dense matrices, in float64."""

import itertools
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from medseg.crf import CRF, mean_field, pairwise_sums
from medseg.errors import UsageError

SHAPES = [(9,), (4, 5), (3, 4, 3)]
SPACINGS = {1: (1.5,), 2: (1.0, 0.7), 3: (2.0, 1.0, 0.5)}
KERNELS = {
    "bilateral_weight": 1.3, "bilateral_sigma_mm": 2.0, "intensity_sigma": 0.8, "spatial_weight": 0.4,
    "spatial_sigma_mm": 1.2, "iterations": 3,
}  # fmt: skip
FULL = 100.0


def case(shape, classes=3, channels=2, samples=1):
    rng = np.random.default_rng(len(shape))
    p = rng.dirichlet(np.ones(classes), (samples, *shape))
    return torch.tensor(np.moveaxis(p, -1, 1).copy()), torch.tensor(rng.normal(size=(samples, channels, *shape)))


def weight_sum(shape, spacing, radius, sigma):
    """The spatial Gaussian summed over the window by another loop than the implementation's."""
    reach = [min(n - 1, int(radius / step + 1e-6)) for n, step in zip(shape, spacing, strict=True)]
    grid = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), -1) * np.array(spacing)
    return np.exp(-(grid**2).sum(-1) / (2 * sigma**2)).sum() - 1


def dense_kernel(image, spacing, crf):
    """K as a full matrix (N, N) of one image (C, *spatial), from the definition, cut to the window."""
    shape = image.shape[1:]
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, len(shape))
    steps = index[:, None] - index[None]
    square = ((steps * np.array(spacing)) ** 2).sum(-1)
    values = image.reshape(image.shape[0], -1).T.numpy()
    contrast = ((values[:, None] - values[None]) ** 2).sum(-1)
    z_b, z_s = (
        weight_sum(shape, spacing, crf.radius_mm, sigma) if crf.normalize else 1.0
        for sigma in (crf.bilateral_sigma_mm, crf.spatial_sigma_mm)
    )
    k = crf.bilateral_weight / z_b * np.exp(
        -square / (2 * crf.bilateral_sigma_mm**2) - contrast / (2 * crf.intensity_sigma**2)
    ) + crf.spatial_weight / z_s * np.exp(-square / (2 * crf.spatial_sigma_mm**2))
    inside = (np.abs(steps * np.array(spacing)) <= crf.radius_mm + 1e-6).all(-1)
    k[~inside] = 0
    np.fill_diagonal(k, 0)
    return torch.tensor(k)


def double_loop(p, image, spacing, crf):
    """Sum over ordered pairs of k_ij p_j, in plain Python, of one image."""
    shape = image.shape[1:]
    total, mass = torch.zeros_like(p), torch.zeros(shape, dtype=p.dtype)
    for i, j in itertools.permutations(itertools.product(*map(range, shape)), 2):
        square = sum(((a - b) * step) ** 2 for a, b, step in zip(i, j, spacing, strict=True))
        contrast = sum((image[c][i] - image[c][j]).item() ** 2 for c in range(image.shape[0]))
        k = crf.bilateral_weight * math.exp(
            -square / (2 * crf.bilateral_sigma_mm**2) - contrast / (2 * crf.intensity_sigma**2)
        ) + crf.spatial_weight * math.exp(-square / (2 * crf.spatial_sigma_mm**2))
        total[(slice(None), *i)] += k * p[(slice(None), *j)]
        mass[i] += k
    return total, mass


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_windowed_at_full_radius_is_the_double_loop_is_the_dense_matrix(shape):
    p, image = case(shape)
    spacing = SPACINGS[len(shape)]
    crf = CRF(**KERNELS, radius_mm=FULL, normalize=False)
    sums, mass = pairwise_sums(p, image, crf, spacing)
    k = dense_kernel(image[0], spacing, crf)
    loop, loop_mass = double_loop(p[0], image[0], spacing, crf)
    torch.testing.assert_close(sums[0].flatten(1), p[0].flatten(1) @ k)
    torch.testing.assert_close(mass[0, 0].flatten(), k.sum(1))
    torch.testing.assert_close(sums[0], loop)
    torch.testing.assert_close(mass[0, 0], loop_mass)


@pytest.mark.parametrize("shape", [*SHAPES, (3, 2, 4, 2)], ids=str)
@pytest.mark.parametrize("radius", [2.0, 3.1])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("without", [None, "bilateral_weight", "spatial_weight"])
def test_a_smaller_window_is_the_dense_matrix_cut_to_it(shape, radius, normalize, without):
    p, image = case(shape, samples=2)
    spacing = SPACINGS.get(len(shape), (1.0,) * len(shape))
    crf = CRF(**{**KERNELS, **({without: 0.0} if without else {})}, radius_mm=radius, normalize=normalize)
    sums, mass = pairwise_sums(p, image, crf, spacing)
    for sample in range(2):
        k = dense_kernel(image[sample], spacing, crf)
        torch.testing.assert_close(sums[sample].flatten(1), p[sample].flatten(1) @ k)
        torch.testing.assert_close(mass[sample, 0].flatten(), k.sum(1))


def test_a_normalized_weight_is_what_an_even_neighbourhood_counts_for():
    for spacing in ((1.0, 1.0), (3.0, 0.5)):
        crf = CRF(bilateral_weight=7.0, spatial_weight=2.0, radius_mm=3.0)
        _, mass = pairwise_sums(torch.ones(1, 1, 15, 15), torch.zeros(1, 1, 15, 15), crf, spacing)
        assert mass[0, 0, 7, 7].item() == pytest.approx(9.0, rel=1e-6)


def test_a_gaussian_narrower_than_a_voxel_is_still_normalized():
    crf = CRF(bilateral_weight=0.0, spatial_weight=2.0, spatial_sigma_mm=0.01, radius_mm=2.0)
    _, mass = pairwise_sums(torch.ones(1, 1, 9), torch.zeros(1, 1, 9), crf)
    assert mass[0, 0, 4].item() == pytest.approx(2.0)


def test_a_thick_slice_axis_beyond_the_radius_has_no_neighbours():
    p, image = case((3, 4, 3))
    crf = CRF(**KERNELS, radius_mm=2.0)
    sums, _ = pairwise_sums(p, image, crf, (5.0, 1.0, 1.0))
    for number in range(3):
        alone, _ = pairwise_sums(p[:, :, number], image[:, :, number], crf, (1.0, 1.0))
        torch.testing.assert_close(sums[:, :, number], alone)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("normalize", [True, False])
def test_mean_field_is_the_quadratic_form_of_it(shape, normalize):
    """Q <- softmax(log p - sum over other labels of K Q), by dense matrices."""
    p, image = case(shape)
    spacing = SPACINGS[len(shape)]
    crf = CRF(**KERNELS, radius_mm=FULL, normalize=normalize)
    k = dense_kernel(image[0], spacing, crf)
    potts = 1 - torch.eye(3, dtype=torch.float64)
    unary = -p[0].flatten(1).log()
    q = p[0].flatten(1)
    for _ in range(crf.iterations):
        q = (-unary - potts @ (q @ k)).softmax(0)
    torch.testing.assert_close(mean_field(p[0], image[0], crf, spacing).flatten(1), q)


def test_mean_field_leaves_its_input_alone_and_takes_half_precision():
    p, image = case((6, 6))
    kept = p.clone()
    expected = mean_field(p[0], image[0], CRF())
    assert torch.equal(p, kept)
    half = mean_field(p[0].half(), image[0].half(), CRF())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), expected, atol=0.02, rtol=0)
    torch.testing.assert_close(half.sum(0), torch.ones(6, 6))


def test_mean_field_removes_a_speck_but_not_a_structure_with_an_edge():
    image = torch.zeros(1, 12, 12)
    image[:, :, 6:] = 1.0
    labels = (image[0] > 0.5).long()
    labels[3, 2] = 1  # a speck in dark tissue
    p = torch.where(torch.nn.functional.one_hot(labels, 2).movedim(-1, 0).bool(), 0.9, 0.1)
    refined = mean_field(p, image, CRF()).argmax(0)
    assert torch.equal(refined, (image[0] > 0.5).long())


def test_a_probability_that_half_precision_rounded_to_nothing_can_be_overruled():
    p = torch.zeros(2, 7, 7, dtype=torch.float16)
    p[0] = 1
    p[:, 3, 3] = torch.tensor([0, 1])  # log-odds of at least 16.6
    image = torch.zeros(1, 7, 7)
    for weight, label in ((10.0, 1), (30.0, 0)):
        refined = mean_field(p, image, CRF(bilateral_weight=weight, spatial_weight=0.0))
        assert refined[:, 3, 3].argmax() == label


def test_sure_probabilities_stay_finite():
    p = torch.zeros(2, 5, 5)
    p[0] = 1
    refined = mean_field(p, torch.zeros(1, 5, 5), CRF())
    assert torch.isfinite(refined).all()
    torch.testing.assert_close(refined, p)


def test_an_image_of_one_voxel_has_no_pairs():
    sums, mass = pairwise_sums(torch.ones(1, 2, 1, 1), torch.zeros(1, 1, 1, 1), CRF())
    assert not sums.any()
    assert not mass.any()


@pytest.mark.parametrize(
    ("image", "spacing", "radius", "where"),
    [
        ((1, 1, 5), None, 3.0, "image"),
        ((2, 1, 5, 5), None, 3.0, "image"),
        ((1, 1, 5, 5), (1.0,), 3.0, "spacing_mm"),
        ((1, 1, 5, 5), (1.0, 0.0), 3.0, "spacing_mm"),
        ((1, 1, 5, 5), (5.0, 4.0), 3.0, "radius_mm"),
    ],
)
def test_what_does_not_fit_is_refused(image, spacing, radius, where):
    with pytest.raises(UsageError) as caught:
        pairwise_sums(torch.ones(1, 2, 5, 5), torch.zeros(image), CRF(radius_mm=radius), spacing)
    assert caught.value.where == where


@pytest.mark.parametrize(
    "wrong",
    [
        {"radius_mm": 0}, {"intensity_sigma": 0}, {"bilateral_sigma_mm": -1}, {"spatial_sigma_mm": 0},
        {"bilateral_weight": -1}, {"spatial_weight": float("nan")}, {"iterations": 0}, {"theta": 1},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        CRF(**wrong)
