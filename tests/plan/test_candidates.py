"""Patches and batches, chosen for memories that are known exactly."""

import math

import pytest

from medseg.errors import UsageError
from medseg.plan.candidates import Candidate, Fixed, best_candidate, ground
from medseg.plan.compute import Compute, parse_memory
from tests.plan.builders import fingerprint

CT = fingerprint((0.8, 0.8, 2.0), (512, 512, 200))
MR = fingerprint((1.0, 1.0, 1.0), (35, 50, 36), cases=166)
GPU, CPU = Compute("cuda", 10**10), Compute("cpu", 10**10)


def limit(voxels: int, parts: bool = True):
    """Fits while so many voxels go through the network at once."""

    def fits(candidate: Candidate) -> bool:
        at_once = candidate.batch_size // candidate.parts
        return math.prod(candidate.patch_size) * at_once <= voxels

    return fits


def test_on_a_cpu_time_decides():
    assert best_candidate(ground(MR, CPU, Fixed()), limit(10**9)) == Candidate((32, 48, 32), 4)


@pytest.mark.parametrize("voxels", [2 * 192**3, 2 * 128**3, 2 * 64**3])
def test_the_patch_is_the_largest_that_fits_twice(voxels):
    chosen = best_candidate(ground(CT, GPU, Fixed()), limit(voxels))
    size = math.prod(chosen.patch_size)
    assert chosen.parts == 1
    assert chosen.batch_size * size <= voxels
    assert 2 * size > 0.55 * min(voxels, 2 * 192**3)  # a step smaller than the next, rounded
    i, j, k = (n * mm for n, mm in zip(chosen.patch_size, (0.8, 0.8, 2.0), strict=True))
    assert i == pytest.approx(k, rel=0.35)  # a cube in mm, but for rounding
    assert i == j


def test_what_memory_is_left_goes_into_the_batch_up_to_a_share_of_the_data():
    chosen = best_candidate(ground(MR, GPU, Fixed()), limit(10**9))
    assert chosen.patch_size == (32, 48, 32)
    assert chosen.batch_size == 11  # 5 % of 166 x 35 x 50 x 36 voxels, over 32 x 48 x 32: 10.6


def test_a_fixed_patch_stays_and_its_batch_is_cut_into_parts():
    place = ground(CT, GPU, Fixed(patch_size=(64, 64, 64), batch_size=6))
    assert best_candidate(place, limit(6 * 64**3)) == Candidate((64, 64, 64), 6)
    assert best_candidate(place, limit(3 * 64**3)) == Candidate((64, 64, 64), 6, 2)
    assert best_candidate(place, limit(64**3)) == Candidate((64, 64, 64), 6, 6)
    assert best_candidate(place, limit(64**3 - 1)) is None


def test_a_fixed_batch_is_cut_into_parts_before_the_patch_becomes_smaller():
    place = ground(CT, GPU, Fixed(batch_size=4))
    largest = next(place.patches())
    assert best_candidate(place, limit(math.prod(largest))) == Candidate(largest, 4, 4)
    smaller = best_candidate(place, limit(math.prod(largest) - 1))
    assert math.prod(smaller.patch_size) < math.prod(largest)
    assert smaller.batch_size == 4


def test_a_low_resolution_covers_a_quarter_and_the_full_one_does_not():
    small = Compute("cpu", 10**10)
    full, low = (ground(CT, small, Fixed(resolution=name)) for name in ("full", "low"))
    assert full.cover(next(full.patches())) < 0.25
    assert low.cover(next(low.patches())) == pytest.approx(0.25, abs=0.08)


def test_single_slices_make_a_2d_network_and_no_3d_one():
    slices = fingerprint((1.0, 1.0, 5.0), (256, 256, 1))
    assert ground(slices, CPU, Fixed()).dims == 2
    with pytest.raises(UsageError, match="single slices"):
        ground(slices, CPU, Fixed(dims=3))
    with pytest.raises(UsageError, match="one voxel thick along R"):
        ground(fingerprint((5.0, 1.0, 1.0), (1, 256, 256)), CPU, Fixed())


def test_what_is_set_is_not_planned():
    place = ground(CT, GPU, Fixed(spacing_mm=(1.5, 1.5, 1.5), dims=2))
    assert place.spacing.value == (1.5, 1.5, 1.5)
    assert place.shape == (273, 273, 267)
    assert len(next(place.patches())) == 2


@pytest.mark.parametrize(("text", "size"), [("8GB", 8 * 10**9), ("500 mb", 5 * 10**8), ("7.5GiB", 7.5 * 2**30)])
def test_amounts_of_memory(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["8", "GB", "0GB", "-1GB", "8TB"])
def test_other_amounts_are_refused(text):
    with pytest.raises(UsageError, match="an amount such as 8GB"):
        parse_memory(text)
