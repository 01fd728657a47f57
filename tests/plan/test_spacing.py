"""Target spacing, against cases worked out by hand from the rule of the paper."""

import pytest

from medseg.plan.spacing import coarser_spacing, target_spacing
from tests.plan.builders import fingerprint


@pytest.mark.parametrize(
    ("median", "tenth", "shape", "expected"),
    [
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (35, 50, 36), (1.0, 1.0, 1.0)),
        ((0.6, 0.6, 3.6), (0.4, 0.4, 3.0), (320, 320, 20), (0.6, 0.6, 3.0)),  # 6 times coarser, 16 times shorter
        ((0.6, 0.6, 3.6), (0.4, 0.4, 0.5), (320, 320, 20), (0.6, 0.6, 0.6)),  # never finer than the others
        ((0.7, 0.7, 2.0), (0.6, 0.6, 1.0), (512, 512, 100), (0.7, 0.7, 2.0)),  # 2.9 times coarser
        ((0.6, 0.6, 3.6), (0.4, 0.4, 3.0), (320, 320, 110), (0.6, 0.6, 3.6)),  # 2.9 times shorter
        ((5.0, 0.8, 0.8), (3.0, 0.5, 0.5), (20, 256, 256), (3.0, 0.8, 0.8)),  # sagittal slices
        ((5.0, 0.8, 2.0), (3.0, 0.5, 1.0), (20, 256, 128), (5.0, 0.8, 2.0)),  # 2.5 times the next one
    ],
)
def test_the_target_is_the_median_or_the_tenth_percentile_of_a_coarse_axis(median, tenth, shape, expected):
    planned = target_spacing(fingerprint(median, shape, tenth=tenth))
    assert planned.value == pytest.approx(expected)
    assert ("10th percentile" in planned.why) == (tuple(planned.value) != median)


def test_the_low_resolution_is_the_finest_at_which_a_patch_covers_enough():
    extent = (400.0, 400.0, 600.0)
    low = coarser_spacing((0.8, 0.8, 3.0), extent, 2**21, 0.25)
    voxels = [e / mm for e, mm in zip(extent, low, strict=True)]
    assert 2**21 / (voxels[0] * voxels[1] * voxels[2]) == pytest.approx(0.25, rel=0.07)
    assert low[0] == low[1] > 0.8
    assert low[2] == 3.0 or low[0] == pytest.approx(low[2], rel=0.03)  # in plane first


def test_a_patch_that_covers_enough_needs_no_coarser_spacing():
    assert coarser_spacing((1.0, 1.0, 1.0), (64.0, 64.0, 64.0), 64**3, 0.25) == (1.0, 1.0, 1.0)
