"""Patches and batches, chosen for memories that are known exactly."""

import math
from dataclasses import replace

import pytest
import torch

from medseg.errors import DeviceError, UsageError
from medseg.plan.candidates import Candidate, best_candidate, smallest_candidate
from medseg.plan.compute import Compute, compute_for, parse_memory
from medseg.plan.fixed import Fixed
from medseg.plan.ground import ground, lowered
from medseg.training.world import World
from tests.plan.builders import fingerprint

CT = fingerprint((0.8, 0.8, 2.0), (512, 512, 200))
MR = fingerprint((1.0, 1.0, 1.0), (35, 50, 36), cases=166)
GPU, CPU = Compute("cuda", 10**10), Compute("cpu", 10**10)


def limit(voxels: int):
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


@pytest.mark.parametrize("fixed", [Fixed(), Fixed(dims=2, patch_size=(128, 128)), Fixed(patch_size=(48, 48, 48))])
def test_a_low_resolution_covers_a_quarter_and_the_full_one_does_not(fixed):
    full = ground(CT, CPU, fixed)
    patch = next(full.patches())
    assert full.cover(patch) < 0.251
    low = lowered(full, patch)
    assert low.cover(next(low.patches())) == pytest.approx(0.25, abs=0.08)
    assert fixed.dims != 2 or low.spacing.value[2] == 2.0
    assert low.spacing.why == f"a patch covers a quarter of the median {full.whole}"


def test_a_patch_that_covers_a_quarter_already_is_said_to():
    small = ground(MR, CPU, Fixed(resolution="low"))
    low = lowered(small, (32, 48, 32))
    assert low.spacing.value == small.spacing.value
    assert "already covers a quarter" in low.spacing.why


def test_cropped_images_are_as_large_as_their_crop():
    brain = fingerprint((1.0, 1.0, 1.0), (256, 256, 256), cropped=(140, 180, 150), kept=0.2)
    assert ground(brain, GPU, Fixed()).shape == (256, 256, 256)
    assert ground(brain, GPU, Fixed(), cropped=True).shape == (140, 180, 150)


def test_single_slices_make_a_2d_network_and_no_3d_one():
    slices = fingerprint((1.0, 1.0, 5.0), (256, 256, 1))
    assert ground(slices, CPU, Fixed()).dims == 2
    with pytest.raises(UsageError, match=r"^--dims: .*single slices, found 3"):
        ground(slices, CPU, Fixed(dims=3))
    patch = Fixed(patch_size=(32, 32, 32))
    with pytest.raises(UsageError, match=r"^training.patch_size: .*single slices, found \[32, 32, 32\]"):
        ground(slices, CPU, patch)
    with pytest.raises(UsageError, match="^the model of init_from: "):
        ground(slices, CPU, replace(patch, patch_from="the model of init_from"))
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


def test_a_patch_with_another_number_of_axes_than_asked_is_refused():
    with pytest.raises(UsageError, match="--dims: expected 3, the number of sizes of training.patch_size, found 2"):
        ground(CT, GPU, Fixed(dims=2, patch_size=(32, 32, 32)))


def test_each_process_takes_as_many_patches_and_as_much_memory():
    four = replace(CPU, processes=4)
    one, several = (best_candidate(ground(MR, compute, Fixed()), limit(10**9)) for compute in (CPU, four))
    assert several == replace(one, batch_size=4 * one.batch_size)
    gpus = replace(GPU, processes=3)
    assert best_candidate(ground(MR, gpus, Fixed()), limit(10**9)).batch_size == 9  # of 11 that the data allow
    assert best_candidate(ground(MR, replace(GPU, processes=8), Fixed()), limit(10**9)).batch_size == 8
    cut = best_candidate(ground(MR, gpus, Fixed(patch_size=(32, 32, 32), batch_size=12)), limit(6 * 32**3))
    assert cut == Candidate((32, 32, 32), 12, 2)  # 4 in each process, 2 at once
    with pytest.raises(UsageError, match="training.batch_size: expected a multiple of 6: 3 processes"):
        ground(MR, gpus, Fixed(batch_size=9, accumulate=2))


def test_batches_are_multiples_of_their_fixed_parts():
    place = ground(MR, GPU, Fixed(accumulate=2))
    assert best_candidate(place, limit(10**9)) == Candidate((32, 48, 32), 10, 2)
    assert best_candidate(place, limit(5 * 32 * 48 * 32)) == Candidate((32, 48, 32), 10, 2)
    assert best_candidate(place, limit(4 * 32 * 48 * 32)) == Candidate((32, 48, 32), 8, 2)


def test_the_smallest_candidate_is_the_last_that_would_be_chosen():
    for fixed in (Fixed(), Fixed(batch_size=6), Fixed(patch_size=(64, 64, 64)), Fixed(accumulate=3)):
        tried = []
        assert best_candidate(ground(CT, GPU, fixed), lambda c, tried=tried: tried.append(c)) is None
        assert smallest_candidate(ground(CT, GPU, fixed)) == tried[-1]


def test_a_patch_has_at_least_the_stages_that_are_set():
    deep = ground(CT, GPU, Fixed(depth=5))
    assert all(min(n for n in patch[:2]) >= 64 for patch in deep.patches())  # 4 voxels after 4 halvings
    with pytest.raises(UsageError, match=r"network.channels: expected at most \d stages, .* found 9 stages"):
        next(ground(CT, GPU, Fixed(depth=9)).patches())
    assert next(ground(CT, GPU, Fixed(depth=9, has_strides=True)).patches())


class Card:
    """A CUDA card with 10 GB, of which 8 are free."""

    @staticmethod
    def mem_get_info(device):
        return 8 * 10**9, 10 * 10**9


def test_memory_for_a_card_that_is_not_here(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    other = compute_for("cuda", "8GB")
    assert (other.kind, other.memory_bytes, other.unmeasured) == ("cuda", 0.92 * 8e9, "no such card here")
    assert compute_for("auto", "1MB") == Compute("cpu", 10**6)
    with pytest.raises(DeviceError, match="expected a CUDA device"):
        compute_for("cuda")


def test_more_memory_than_is_free_here_is_not_measured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    monkeypatch.setattr(torch.cuda, "mem_get_info", Card.mem_get_info)
    assert compute_for("cuda", "8GB").unmeasured == ""
    assert compute_for("cuda", "24GB").unmeasured == "only 8.0 GB are free here"
    assert compute_for("cuda").memory_bytes == 0.92 * 8e9


def test_processes_share_the_memory_of_their_machine(monkeypatch):
    monkeypatch.setattr("medseg.plan.compute.free_host_bytes", lambda: 16 * 10**9)
    assert compute_for("cpu") == Compute("cpu", 8 * 10**9, "half of the memory that is free")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr("medseg.plan.compute.current", lambda: World(0, 8))
    shared = compute_for("cpu")
    assert (shared.memory_bytes, shared.processes) == (2 * 10**9, 8)
    assert "shared by 4 processes" in shared.source
    assert compute_for("cpu", "5GB").unmeasured == "only 4.0 GB are free here"


def test_a_system_that_does_not_tell_its_memory_is_taken_to_be_small(monkeypatch):
    monkeypatch.setattr("builtins.open", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError))
    monkeypatch.delattr("os.sysconf")
    assert compute_for("cpu") == Compute("cpu", 4 * 10**9, "half of 8 GB, a guess")
