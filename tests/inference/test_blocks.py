"""All classes of all native voxels, against scipy; each voxel once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import medseg.inference.blocks
from medseg.data.resample import GridMap
from medseg.data.transforms import Prepared
from medseg.inference.labelling import label_on_grid, last_regions, winners
from medseg.volume import Grid
from tests.brute import Drawn, any_grids, coordinates, dyadic_grids, inside, interpolated, slab_depths

VALUES = np.array([0, 3, 5, 9, 4], dtype=np.uint8)
IMAGE = torch.zeros(1, 1, 1, 1)


def handed_on(logits, grids, depths=(), nearest_axis=None, choose=None):
    """Collect what the sink is given; the labels, the logits, and how often each voxel came."""
    found = np.full((len(logits), *grids.target.shape), np.nan)
    count = np.zeros(grids.target.shape, dtype=int)

    def sink(place, block):
        assert block.dtype == torch.float32
        found[(slice(None), *place)] = block.numpy()
        count[place] += 1

    prepared = Prepared(IMAGE, grids.source, nearest_axis=nearest_axis)
    labels = label_on_grid(Drawn(logits, depths), prepared, grids.target, VALUES, choose=choose, sink=sink)
    return labels, found, count


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(dyadic_grids(), any_grids()),
    slab_depths(),
    st.sampled_from([None, None, 0, 1, 2]),
    st.integers(0, 99),
)
def test_every_voxel_within_the_network_grid_comes_once(grids, depths, nearest_axis, seed):
    logits = np.random.default_rng(seed).normal(size=(4, *grids.source.shape))
    labels, found, count = handed_on(logits, grids, depths, nearest_axis)
    at = coordinates(grids)
    within = inside(at, grids.source.shape)
    assert (count[within] == 1).all()
    assert count.max(initial=0) <= 1
    expected = interpolated(logits, at, nearest_axis)
    np.testing.assert_allclose(found[:, within], expected[:, within], atol=1e-4)  # integers to 1e-5
    assert np.array_equal(labels[within], VALUES[found[:, within].argmax(0)])
    assert not labels[~within].any()
    surplus = found[:, ~within & (count == 1)]
    assert (surplus.argmax(0) == 0).all()


@pytest.mark.parametrize("sheared", [False, True])
@pytest.mark.parametrize("choose", [winners, last_regions])
def test_labels_are_those_without_a_sink(choose, sheared, monkeypatch):
    affine = np.diag([0.45, 0.5, 0.31, 1.0])
    affine[2, 0] = 0.2 if sheared else 0
    grids = GridMap(Grid((9, 8, 7), np.eye(4)), Grid((20, 15, 22), affine))
    logits = np.random.default_rng(3).normal(size=(4, 9, 8, 7))
    prepared = Prepared(IMAGE, grids.source)
    expected = label_on_grid(Drawn(logits, [2, 3]), prepared, grids.target, VALUES, choose=choose)
    labels, found, _ = handed_on(logits, grids, [2, 3], choose=choose)
    assert (labels != expected).mean() < 1e-3  # ties within rounding
    if sheared and choose is last_regions:
        outside = ~inside(coordinates(grids), grids.source.shape) & ~np.isnan(found[0])
        assert (found[:, outside] < -1e3).all()
    monkeypatch.setattr(medseg.inference.blocks, "_CHUNK_BYTES", 1000)
    assert np.array_equal(handed_on(logits, grids, choose=choose)[0], labels)


def test_any_other_choice_sees_all_logits():
    grids = GridMap(Grid((5, 4, 6), np.eye(4)), Grid((9, 7, 11), np.diag([0.5, 0.5, 0.5, 1.0])))
    logits = np.random.default_rng(0).normal(size=(4, 5, 4, 6))

    def least(values):
        return values.numpy().argmin(0)

    got = label_on_grid(Drawn(logits), Prepared(IMAGE, grids.source), grids.target, VALUES, choose=least)
    assert np.array_equal(got, VALUES[interpolated(logits, coordinates(grids)).argmin(0)])
