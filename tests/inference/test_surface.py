"""Exact labels against the brute force: all logits interpolated in float64, then one chosen."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, map_coordinates

import medseg.inference.places
import medseg.inference.surface
from medseg.data.resample import GridMap
from medseg.data.transforms import Prepared
from medseg.inference.exact import Cells
from medseg.inference.labelling import label_on_grid, last_regions, winners
from medseg.inference.places import pieces
from medseg.inference.surface import PointLabels
from medseg.volume import Grid
from tests.brute import (
    Drawn,
    any_grids,
    chosen,
    coordinates,
    dyadic_grids,
    inside,
    interpolated,
    is_close,
    slab_depths,
)

IMAGE = torch.zeros(1, 1, 1, 1)
VALUES = np.array([0, 3, 5, 9, 4, 255, 17], dtype=np.uint8)
LOGITS = {"classes": st.integers(1, 6), "seed": st.integers(0, 10**6), "regions": st.booleans()}


def labels_of(logits, grids, depths=(), regions=False, values=VALUES, nearest_axis=None):
    prepared = Prepared(IMAGE, grids.source, nearest_axis=nearest_axis)
    choose = last_regions if regions else winners
    return label_on_grid(Drawn(logits, depths), prepared, grids.target, values, choose=choose)


def integers(seed, classes, shape):
    """Logits of few values: ties at corners and between them are everywhere."""
    return np.random.default_rng(seed).integers(-2, 3, (classes, *shape)).astype(float)


@settings(max_examples=80, deadline=None)
@given(dyadic_grids(), slab_depths(), st.sampled_from([None, None, 0, 1, 2]), *LOGITS.values())
def test_ties_are_decided_as_in_exact_arithmetic(grids, depths, nearest_axis, classes, seed, regions):
    logits = integers(seed, classes, grids.source.shape)
    at = coordinates(grids)
    expected = VALUES[chosen(interpolated(logits, at, nearest_axis), regions)]
    expected[~inside(at, grids.source.shape)] = 0
    assert np.array_equal(labels_of(logits, grids, depths, regions, nearest_axis=nearest_axis), expected)


@settings(max_examples=80, deadline=None)
@given(dyadic_grids(sheared=True), slab_depths(), st.sampled_from([None, None, 0, 1, 2]), *LOGITS.values())
def test_ties_of_sheared_grids_are_decided_as_in_exact_arithmetic(
    grids, depths, nearest_axis, classes, seed, regions
):
    logits = integers(seed, classes, grids.source.shape)
    at = coordinates(grids)
    expected = VALUES[chosen(interpolated(logits, at, nearest_axis), regions)]
    expected[~inside(at, grids.source.shape)] = 0
    assert np.array_equal(labels_of(logits, grids, depths, regions, nearest_axis=nearest_axis), expected)


@settings(max_examples=120, deadline=None)
@given(any_grids(), slab_depths(), st.sampled_from([0.0, 0.7, 2.0]), *LOGITS.values())
def test_any_grid_and_any_logits(grids, depths, smooth, classes, seed, regions):
    logits = np.random.default_rng(seed).normal(size=(classes, *grids.source.shape)).astype(np.float32)
    logits = np.stack([gaussian_filter(c.astype(float), smooth) for c in logits]) / (logits.std() + 1e-3)
    at = coordinates(grids)
    values = interpolated(logits, at)
    expected = VALUES[chosen(values, regions)]
    within = inside(at, grids.source.shape)
    expected[~within] = 0
    got = labels_of(logits, grids, depths, regions)
    compared = ~(is_close(values, regions) & within)
    border = [
        np.minimum(np.abs(c + 0.5001), np.abs(c - n + 0.4999)) for c, n in zip(at, grids.source.shape, strict=True)
    ]
    compared &= np.min(border, axis=0) > 1e-9
    assert np.array_equal(got[compared], expected[compared])


@settings(max_examples=40, deadline=None)
@given(dyadic_grids(), slab_depths(), *LOGITS.values())
def test_voxel_by_voxel_is_the_same_as_axis_by_axis(grids, depths, classes, seed, regions):
    logits = np.random.default_rng(seed).normal(size=(classes, *grids.source.shape))
    labels = np.zeros(grids.target.shape, dtype=np.uint8, order="F")
    points = PointLabels(grids, None, VALUES, regions, labels)
    for piece in pieces(Drawn(logits, depths).slabs(IMAGE), points.steps[2]):
        points.add(piece)
    assert np.array_equal(labels, labels_of(logits, grids, depths, regions))


@pytest.mark.parametrize("kind", ["axis by axis", "sheared"])
def test_small_pieces_and_chunks_give_the_same(monkeypatch, kind):
    affine = np.diag([0.4, 0.5, 0.3, 1.0])
    affine[0, 1] = 0.2 if kind == "sheared" else 0.0
    grids = GridMap(Grid((12, 10, 11), np.eye(4)), Grid((20, 18, 30), affine))
    logits = np.random.default_rng(0).normal(size=(6, *grids.source.shape))
    expected = labels_of(logits, grids)
    monkeypatch.setattr(medseg.inference.surface, "_POINTS", 50)
    monkeypatch.setattr(medseg.inference.surface, "_PAIRS", 60)
    monkeypatch.setattr(medseg.inference.surface, "_CELLS", 100)
    monkeypatch.setattr(medseg.inference.places, "_PIECE_VOXELS", 300)
    assert np.array_equal(labels_of(logits, grids), expected)
    assert np.array_equal(labels_of(logits, grids, [3, 1, 2]), expected)
    assert len(np.unique(expected)) == 6


@pytest.mark.parametrize("sheared", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_many_classes_and_wide_values(dtype, sheared):
    classes = 300 if dtype == np.uint16 else 256
    affine = np.diag([0.5, 0.25, 0.5, 1.0])
    affine[1, 2] = 0.25 if sheared else 0
    grids = GridMap(Grid((9, 8, 7), np.eye(4)), Grid((16, 28, 12), affine))
    logits = integers(0, classes, grids.source.shape)
    values = (np.arange(classes) * (200 if dtype == np.uint16 else 1)).astype(dtype)
    at = coordinates(grids)
    expected = values[chosen(interpolated(logits, at), False)]
    expected[~inside(at, grids.source.shape)] = 0
    got = labels_of(logits, grids, [2], values=values)
    assert got.dtype == dtype
    assert got.flags.f_contiguous
    assert np.array_equal(got, expected)


def test_a_class_that_wins_at_no_voxel_wins_between():
    logits = np.array([[4.0, -4.0], [-4.0, 4.0], [1.0, 1.0], [-0.5, -0.5]]).reshape(4, 2, 1, 1)
    affine = np.diag([0.125, 1, 1, 1.0])
    grids = GridMap(Grid((2, 1, 1), np.eye(4)), Grid((9, 1, 1), affine))
    assert labels_of(logits, grids).ravel().tolist() == [0, 0, 0, 0, 5, 3, 3, 3, 3]


def test_nearest_along_an_axis_is_scipys_order_0_there():
    """nnU-Net's export of anisotropic logits: linear in the planes, order 0 across them."""
    rng = np.random.default_rng(0)
    logits = np.stack([gaussian_filter(rng.normal(size=(9, 8, 5)), 1) for _ in range(4)])
    affine = np.diag([0.45, 0.7, 0.31, 1.0])
    grids = GridMap(Grid((9, 8, 5), np.eye(4)), Grid((19, 11, 14), affine))
    i, j, k = coordinates(grids)
    plane = np.clip(np.floor(k + 0.5), 0, 4)
    values = np.stack([map_coordinates(c, (i, j, plane), order=1, mode="nearest") for c in logits])
    got = labels_of(logits, grids, [2, 1], nearest_axis=2)
    sure = ~is_close(values, False)
    assert sure.mean() > 0.99
    assert np.array_equal(got[sure], VALUES[values.argmax(0)][sure])
    assert (got != labels_of(logits, grids)).mean() > 0.02


def test_only_what_can_win_contends():
    logits = torch.full((40, 3, 3, 3), -5.0)
    logits[1, 0], logits[1, 1:] = 3.0, -3.0
    logits[2, 0], logits[2, 1:] = -3.0, 3.0
    cells = Cells(logits, (1, 1, 1), False)
    mixed = (cells.lowest != cells.highest).nonzero()
    assert mixed.tolist() == [[0, j, k] for j in (0, 1) for k in (0, 1)]
    contest = cells.contest(mixed)
    assert contest.count.tolist() == [2] * 4
    assert contest.channels.tolist() == [1, 2] * 4
