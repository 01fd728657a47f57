"""Stages, against those that nnU-Net 2.8 plans for the same patches and spacings (get_pool_and_conv_props)."""

import json
from pathlib import Path

import pytest

from medseg.plan.topology import topology

ROWS = json.loads((Path(__file__).parent / "topologies.json").read_text())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['patch']} {row['spacing']}")
def test_stages_are_those_of_nnunet(row):
    found = topology(row["patch"], row["spacing"])
    assert [list(stride) for stride in found.strides] == row["strides"]
    assert [list(kernel) for kernel in found.kernels] == row["kernels"]
    assert list(found.multiple) == row["multiple"]


def test_a_patch_too_small_to_be_halved_still_has_two_stages():
    found = topology((7, 7, 7), (1.0, 1.0, 1.0))
    assert found.strides == ((1, 1, 1),)
    assert found.kernels == ((3, 3, 3), (3, 3, 3))


def test_channels_double_up_to_the_limit():
    assert topology((128, 128, 128), (1.0, 1.0, 1.0)).channels(32, 320) == (32, 64, 128, 256, 320, 320)
