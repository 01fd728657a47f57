"""Normalisation over masks with their holes, of ranges and of colours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medseg.data.normalize import filled_mask, normalize
from medseg.data.preprocessing import PlainIntensity, Preprocessing, RGBIntensity, UnitIntensity, ZScoreIntensity
from medseg.data.transforms import build_transforms, prepare
from medseg.errors import InputError
from medseg.volume import Volume


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), share=st.floats(0, 1))
def test_masks_are_filled_as_scipy_fills_them(seed, share):
    rng = np.random.default_rng(seed)
    image = (rng.random((2, 6, 7, 5)) < share) * rng.normal(size=(2, 6, 7, 5))
    expected = ndimage.binary_fill_holes((image != 0).any(axis=0))
    np.testing.assert_array_equal(filled_mask(torch.from_numpy(image)).numpy(), expected)


def test_zscore_within_the_filled_mask():
    array = np.zeros((2, 9, 9, 9), np.float32)
    array[0, 2:7, 2:7, 2:7] = np.random.default_rng(0).normal(50, 9, (5, 5, 5))
    array[0, 4, 4, 4] = 0  # a hole: it counts
    array[1, 2:5] = 3
    inside = (array != 0).any(axis=0)
    inside[4, 4, 4] = True
    x = torch.from_numpy(array.copy())
    normalize(x, [ZScoreIntensity(kind="zscore", filled=True), PlainIntensity(kind="plain")])
    values = array[0][inside].astype(np.float64)
    expected = np.where(inside, (array[0] - values.mean()) / values.std(), 0)
    np.testing.assert_allclose(x[0], expected, atol=1e-5)
    np.testing.assert_array_equal(x[1], array[1])


def test_what_the_first_stage_drew_counts_as_inside():
    """nnU-Net's mask of a second stage is its label map, -1 where that is 0 and the image outside."""
    array = np.zeros((8, 8, 8), np.float32)
    array[:6, :6, :6] = np.random.default_rng(0).normal(50, 9, (6, 6, 6))
    array[0, 0, 0] = array[7, 7, 7] = 1
    drawn = np.zeros((8, 8, 8), np.uint8)
    drawn[4:, 2:4, 2:4] = 2
    rules = {"intensity": [{"kind": "zscore", "filled": True}], "coarse_labels": (2,)}
    transforms = build_transforms(Preprocessing.model_validate(rules), 1)
    got = prepare(transforms, [Volume(array, np.eye(4))], coarse=Volume(drawn, np.eye(4)))
    inside = ndimage.binary_fill_holes(array != 0) | (drawn > 0)
    values = array[inside].astype(np.float64)
    expected = np.where(inside, (array - values.mean()) / values.std(), 0)
    np.testing.assert_allclose(got.image[0], expected, atol=1e-5)
    np.testing.assert_array_equal(got.coarse, drawn)


def test_ranges_and_colours():
    array = np.random.default_rng(0).uniform(3, 250, (4, 5, 6)).astype(np.float32)
    x = torch.from_numpy(np.stack([array, array, np.full_like(array, 7)]))
    unit, rgb = UnitIntensity(kind="unit"), RGBIntensity(kind="rgb")
    normalize(x, [unit, rgb, unit])
    np.testing.assert_allclose(x[0], (array - array.min()) / np.ptp(array), atol=1e-6)
    np.testing.assert_allclose(x[1], array / 255, atol=1e-7)
    assert not x[2].any()
    for wrong in (-1.0, 256.0):
        with pytest.raises(InputError, match="expected 0 to 255"):
            normalize(torch.full((1, 2, 2, 2), wrong), [rgb])


@pytest.mark.parametrize("sign", [1, -1])
def test_crop_to_what_is_not_zero(sign):
    array = np.zeros((8, 9, 10), np.float32)
    array[2:5, 3:9, 4] = sign * 5
    rules = Preprocessing.model_validate({"intensity": [{"kind": "plain"}], "crop_nonzero": True})
    got = prepare(build_transforms(rules, 1), [Volume(array, np.eye(4))])
    assert got.image.shape == (1, 3, 6, 1)
    assert (got.image == sign * 5).all()
    np.testing.assert_array_equal(got.grid.affine[:3, 3], (2, 3, 4))
