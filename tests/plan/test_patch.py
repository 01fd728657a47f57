"""Sizes of patches: closed forms, and properties that any of them has."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.plan.patch import filled, patch_sizes
from medseg.plan.topology import topology


@pytest.mark.parametrize(
    ("shape", "spacing", "voxels", "expected"),
    [
        ((200, 200, 200), (1.0, 1.0, 1.0), 64**3, (64, 64, 64)),
        ((200, 200, 200), (1.0, 1.0, 2.0), 64 * 64 * 32, (64, 64, 32)),  # a cube in mm
        ((400, 400, 10), (1.0, 1.0, 1.0), 10 * 100 * 100, (100, 100, 10)),  # the whole of the short axis
        ((36, 50, 35), (1.0, 1.0, 1.0), 36 * 50 * 35, (36, 50, 35)),
        ((512, 512), (0.7, 0.7), 256 * 256, (256, 256)),
    ],
)
def test_a_patch_is_a_cube_in_millimetres_within_the_image(shape, spacing, voxels, expected):
    assert filled(shape, spacing, voxels) == pytest.approx(expected, rel=1e-6)


SHAPES = st.tuples(*[st.integers(16, 600)] * 3)
SPACINGS = st.tuples(*[st.floats(0.3, 6.0)] * 3)


@given(SHAPES, SPACINGS, st.integers(16**3, 192**3))
def test_patches_can_be_halved_as_the_network_will_and_become_smaller(shape, spacing, most):
    found = list(patch_sizes(shape, spacing, most))
    volumes = [math.prod(patch) for patch in found]
    assert volumes[-1] < 4 * 16**3
    assert len(set(found)) > 1 or math.prod(shape) <= 1.3 * 16**3 or most < 2 * 16**3
    for patch in found:
        multiple = topology(patch, spacing).multiple
        assert all(size % m == 0 or size < 8 for size, m in zip(patch, multiple, strict=True))
        assert all(size <= 1.5 * n + 4 for size, n in zip(patch, shape, strict=True))


def test_hippocampus():
    assert next(patch_sizes((35, 50, 36), (1.0, 1.0, 1.0), 2**16)) == (32, 48, 32)
