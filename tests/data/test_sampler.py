"""Which patches training sees, and that neither threads nor a fresh start change them."""

from __future__ import annotations

import threading
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg.data.augment import Augmentation, augment, draw
from medseg.data.loader import PatchLoader
from medseg.data.sampler import PatchSampler
from medseg.data.store import StoredCase
from tests.data.stored import stored_case

SIZE = (20, 18, 16)
CPU = torch.device("cpu")
NOTHING = Augmentation(preset="none")
EVERYTHING = Augmentation(
    flip_axes=(0, 1),
    rotation_probability=1,
    scaling_probability=1,
    elastic_probability=0.5,
    bias_probability=0.5,
    noise_probability=0.5,
    blur_probability=0.5,
    brightness_probability=0.5,
    contrast_probability=0.5,
    low_resolution_probability=0.5,
    gamma_probability=0.5,
)


def make_case(folder: Path, number: int) -> StoredCase:
    """Case `number`: every voxel holds its own place, and 100,000 times the number; two small labels."""
    image = np.arange(np.prod(SIZE)).reshape(SIZE) + 1e5 * number
    label = np.zeros(SIZE, int)
    label[3:5, 8, 8] = 1
    label[12, 9:12, 7] = 2
    return stored_case(folder / str(number), image[None], label, (1.0, 1.0, 1.0 + number))


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> list[StoredCase]:
    folder = tmp_path_factory.mktemp("cases")
    return [make_case(folder, number) for number in range(5)]


def number_of(image: torch.Tensor) -> int:
    """The case that a patch was cut from."""
    return int(image.max()) // 100_000


def corner_of(image: torch.Tensor, size: tuple[int, int, int] = SIZE) -> tuple[int, ...]:
    return tuple(int(n) for n in np.unravel_index(int(image.min()) % 100_000, size))


# --- sampler ---


def test_the_same_seed_epoch_and_index_give_the_same_patch(cases):
    one, two = (PatchSampler(cases, (8, 8, 8), 0.5, seed=3) for _ in range(2))
    assert all(
        torch.equal(a, b) for n in (0, 7, 123) for a, b in zip(one.sample(2, n), two.sample(2, n), strict=True)
    )
    images = [
        PatchSampler(cases, (8, 8, 8), 0.0, seed).sample(epoch, index)[0]
        for seed, epoch, index in [(3, 2, 7), (4, 2, 7), (3, 1, 7), (3, 2, 8), (2, 3, 7)]
    ]
    assert len({(number_of(x), corner_of(x)) for x in images}) == 5


def test_places_change_with_seed_epoch_and_index_whatever_the_case(cases):
    corners = {
        corner_of(PatchSampler(cases[:1], (3, 3, 3), 0.0, seed).sample(epoch, index)[0])
        for seed in range(3)
        for epoch in range(3)
        for index in range(3)
    }
    assert len(corners) >= 25


def test_a_batch_is_its_patches_in_order(cases):
    sampler = PatchSampler(cases, (8, 8, 8), 0.5, seed=0)
    images, labels = sampler.batch(1, 6, 3)
    for n in range(3):
        image, label = sampler.sample(1, 6 + n, 3)
        assert torch.equal(images[n], image)
        assert torch.equal(labels[n], label)


def test_every_case_comes_once_a_round_in_an_order_that_changes(cases):
    sampler = PatchSampler(cases, (8, 8, 8), 0.5, seed=0)
    orders = set()
    for epoch in range(3):
        numbers = [number_of(sampler.sample(epoch, index)[0]) for index in range(20)]
        assert numbers == [int(sampler.case(epoch, index).id) for index in range(20)]
        rounds = [tuple(numbers[n : n + 5]) for n in range(0, 20, 5)]
        assert all(sorted(order) == [0, 1, 2, 3, 4] for order in rounds)
        orders.update(rounds)
    assert len(orders) > 8


def test_a_patch_is_what_lies_there_with_its_own_label(cases):
    sampler = PatchSampler(cases, (8, 7, 6), 0.5, seed=1)
    for index in range(30):
        image, label = sampler.sample(0, index)
        assert image.shape == (1, 8, 7, 6)
        case = cases[number_of(image)]
        place = tuple(slice(c, c + s) for c, s in zip(corner_of(image), (8, 7, 6), strict=True))
        np.testing.assert_array_equal(image[0], case.image[0][place])
        np.testing.assert_array_equal(label, case.label[place])


@pytest.mark.parametrize("patch", [(8, 8, 6), (7, 5, 3), (20, 18, 1)])
def test_foreground_patches_are_centred_on_a_labelled_voxel_where_the_case_allows_it(cases, patch):
    sampler = PatchSampler(cases, patch, 1.0, seed=0)
    seen = []
    for index in range(60):
        image, label = sampler.sample(0, index)
        corner = np.array(corner_of(image))
        assert (corner >= 0).all()
        assert (corner <= np.array(SIZE) - patch).all()
        voxels = np.argwhere(cases[0].label)
        wanted = np.clip(voxels - np.array(patch) // 2, 0, np.array(SIZE) - patch)
        assert (wanted == corner).all(axis=1).any()
        assert label.any()
        free = (corner > 0) & (corner < np.array(SIZE) - patch)
        if free.all():
            seen.append(int(label[tuple(n // 2 for n in patch)]))
    assert 0 not in seen


def test_every_class_is_chosen_as_often_however_small(tmp_path):
    label = np.zeros((12, 12, 12), int)
    label[2:10, 2:10, 1] = 1  # 64 voxels
    label[6, 6, 9] = 2  # one voxel
    case = stored_case(tmp_path / "a", label[None], label)
    sampler = PatchSampler([case], (1, 1, 1), 1.0, seed=0)
    chosen = [int(sampler.sample(0, index)[1]) for index in range(400)]
    assert set(chosen) == {1, 2}
    assert chosen.count(2) == pytest.approx(200, abs=50)  # five standard deviations


def test_every_voxel_of_a_class_may_be_the_centre(cases):
    sampler = PatchSampler(cases[:1], (1, 1, 1), 1.0, seed=0)
    places = {corner_of(sampler.sample(0, index)[0]) for index in range(150)}
    assert places == {tuple(voxel) for voxel in np.argwhere(cases[0].label).tolist()}


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_foreground_share_of_batches_of_one_patch(tmp_path, share):
    label = np.zeros((40, 40, 40), int)
    label[20, 20, 20] = 1
    case = stored_case(tmp_path / "a", label[None], label)
    sampler = PatchSampler([case], (1, 1, 1), share, seed=0)
    hits = sum(int(sampler.sample(0, index)[1]) for index in range(400))
    assert hits == pytest.approx(400 * share, abs=0 if share in (0, 1) else 5 * (400 * share * (1 - share)) ** 0.5)


@pytest.mark.parametrize(
    ("size", "share", "centred"),
    [(2, 0.33, 1), (3, 1 / 3, 1), (6, 1 / 3, 2), (12, 0.33, 4), (4, 0.01, 1), (4, 0.0, 0), (3, 1.0, 3)],
)
def test_a_share_of_each_batch_is_centred_on_labels_the_last_ones(tmp_path, size, share, centred):
    label = np.zeros((40, 40, 40), int)
    label[20, 20, 20] = 1
    cases = [stored_case(tmp_path / name, label[None], label) for name in "abc"]
    sampler = PatchSampler(cases, (1, 1, 1), share, seed=0)
    for number in range(20):
        labels = sampler.batch(number % 2, number * size, size)[1].ravel()
        assert labels.tolist() == [0] * (size - centred) + [1] * centred


@pytest.mark.parametrize("parts", [(range(2), range(2, 4)), (range(1), range(1, 3), range(3, 4))])
def test_processes_that_share_a_batch_draw_the_patches_of_the_whole(cases, parts):
    def batches(workers: int, share: range | None) -> list[tuple[torch.Tensor, torch.Tensor]]:
        sampler = PatchSampler(cases, (8, 8, 6), 0.5, seed=5)
        return take(PatchLoader(sampler, EVERYTHING, 4, 3, CPU, workers=workers, share=share).batches(1), 4)

    whole = batches(1, None)
    shares = [batches(workers, share) for workers, share in enumerate(parts)]
    for step, batch in enumerate(whole):
        for what in (0, 1):
            assert torch.equal(torch.cat([share[step][what] for share in shares]), batch[what])


def test_patches_elsewhere_reach_every_corner_of_the_case(tmp_path):
    image = np.arange(4 * 3 * 3).reshape(4, 3, 3)
    case = stored_case(tmp_path / "a", image[None], image * 0)
    sampler = PatchSampler([case], (2, 2, 2), 0.0, seed=0)
    corners = {corner_of(sampler.sample(0, index)[0], (4, 3, 3)) for index in range(300)}
    assert len(corners) == 3 * 2 * 2


def test_a_case_without_a_label_is_sampled_anywhere(tmp_path):
    case = stored_case(tmp_path / "a", np.zeros((1, 9, 9, 9)), np.zeros((9, 9, 9), int))
    image, label = PatchSampler([case], (4, 4, 4), 1.0, seed=0).sample(0, 0)
    assert image.shape == (1, 4, 4, 4)
    assert not label.any()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_patch_larger_than_the_case_is_centred_on_it(tmp_path, share):
    case = stored_case(tmp_path / "a", np.ones((1, 4, 5, 6)), np.ones((4, 5, 6), int))
    image, label = PatchSampler([case], (8, 8, 6), share, seed=0).sample(0, 0)
    assert image.sum() == label.sum() == 4 * 5 * 6
    i, j, k = (torch.arange(n, dtype=torch.float32) for n in (8, 8, 6))
    for axis, positions in enumerate((i, j, k)):
        others = [a for a in range(3) if a != axis]
        centre = (label.sum(others) * positions).sum() / label.sum()
        assert centre == pytest.approx((len(positions) - 1) / 2, abs=0.5)


# --- loader ---


def loader(cases: list[StoredCase], workers: int = 1, patch=(8, 8, 6), augmentation=EVERYTHING) -> PatchLoader:
    sampler = PatchSampler(cases, patch, 0.5, seed=5)
    return PatchLoader(sampler, augmentation, 2, 3, CPU, workers=workers)


def take(batches, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    taken = list(islice(batches, count))
    batches.close()
    return taken


def same(one, two) -> bool:
    return len(one) == len(two) and all(
        torch.equal(a, b) for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True)
    )


@pytest.mark.parametrize("patch", [(8, 8, 6), (8, 8, 1)])
def test_the_number_of_workers_changes_no_batch(cases, patch):
    none, one, four = (take(loader(cases, workers, patch).batches(0), 8) for workers in (0, 1, 4))
    assert same(none, one)
    assert same(one, four)
    assert not same(one[:3], one[3:6])  # another epoch, other patches


@pytest.mark.parametrize("first_step", [1, 3, 5])
def test_a_start_in_the_middle_is_a_start_with_steps_skipped(cases, first_step):
    from_the_start = take(loader(cases).batches(0), first_step + 4)
    assert same(take(loader(cases, 2).batches(first_step), 4), from_the_start[first_step:])


def test_steps_are_counted_through_epochs(cases):
    sampler = PatchSampler(cases, (8, 8, 6), 0.5, seed=5)
    for step, (image, label) in enumerate(take(loader(cases, augmentation=NOTHING).batches(0), 7)):
        expected = sampler.batch(step // 3, 2 * (step % 3), 2)
        assert torch.equal(image, expected[0])
        assert torch.equal(label, expected[1])
        assert image.shape == (2, 1, 8, 8, 6)
        assert label.shape == (2, 8, 8, 6)
        assert (image.dtype, label.dtype) == (torch.float32, torch.int64)


def test_batches_are_augmented_by_their_own_keys_and_their_size_in_mm(cases):
    sampler = PatchSampler(cases, (8, 8, 6), 0.5, seed=5)
    (image, label) = take(loader(cases).batches(4), 1)[0]
    thickness = [1.0 + int(sampler.case(1, index).id) for index in (2, 3)]
    assert len(set(thickness)) == 2
    draws = [
        draw(EVERYTHING, (1, 8, 8, 6), (1.0, 1.0, mm), (5, 1, index))
        for mm, index in zip(thickness, (2, 3), strict=True)
    ]
    expected = augment(*sampler.batch(1, 2, 2), draws)
    assert torch.equal(image, expected[0])
    assert torch.equal(label, expected[1])


def test_two_dimensional_patches_lose_their_last_axis(cases):
    image, label = take(loader(cases, patch=(8, 8, 1), augmentation=NOTHING).batches(0), 1)[0]
    assert image.shape == (2, 1, 8, 8)
    assert label.shape == (2, 8, 8)
    expected = PatchSampler(cases, (8, 8, 1), 0.5, seed=5).batch(0, 0, 2)[0][..., 0]
    assert torch.equal(image, expected)


def test_an_error_in_a_thread_reaches_the_caller_and_ends_the_threads(cases):
    class Broken(PatchSampler):
        def sample(self, epoch, index, batch_size):
            if index == 4:
                raise OSError("the disk is gone")
            return super().sample(epoch, index, batch_size)

    before = threading.active_count()
    batches = PatchLoader(Broken(cases, (8, 8, 6), 0.5, 5), NOTHING, 2, 3, CPU, workers=2).batches(0)
    next(batches)
    next(batches)
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    assert threading.active_count() == before


class Gated(PatchSampler):
    """Reads the first batch at once, the others only when the gate is open."""

    def __init__(self, cases: list[StoredCase]) -> None:
        super().__init__(cases, (8, 8, 6), 0.5, 5)
        object.__setattr__(self, "gate", threading.Event())
        object.__setattr__(self, "read", [])

    def sample(self, epoch: int, index: int, batch_size: int = 1):
        if index >= 2:
            assert self.gate.wait(timeout=20)
        self.read.append(index)
        return super().sample(epoch, index, batch_size)


def test_closing_ends_the_threads_and_drops_what_was_not_begun(cases):
    before = threading.active_count()
    sampler = Gated(cases)
    batches = PatchLoader(sampler, NOTHING, 2, 1000, CPU, workers=2).batches(0)
    next(batches)
    threading.Timer(0.3, sampler.gate.set).start()
    batches.close()
    assert threading.active_count() == before
    assert len(sampler.read) <= 2 * (1 + 2)  # the batch taken, and one in each thread


def test_three_batches_for_each_worker_are_read_ahead_and_no_more(cases):
    sampler = Gated(cases)
    sampler.gate.set()
    batches = PatchLoader(sampler, NOTHING, 2, 1000, CPU, workers=2).batches(0)
    next(batches)
    deadline = time.monotonic() + 20
    while len(sampler.read) < 2 * 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert sorted(sampler.read) == list(range(2 * 6))
    batches.close()


def test_neighbouring_slices_become_channels(cases):
    sampler = PatchSampler(cases, (20, 18, 1), 0.5, 0, slices=3)
    loader = PatchLoader(sampler, NOTHING, 2, 8, CPU)
    borders = 0
    for image, label in islice(loader.batches(0), 20):
        assert image.shape == (2, 3, 20, 18)
        for patch, truth in zip(image, label, strict=True):
            here = patch[1, 0, 0].item()
            case, k = cases[int(here) // 100_000], int(here) % 100_000
            whole = case.whole()
            assert torch.equal(truth, whole.label[..., k])
            for channel, plane in zip(patch, (k - 1, k, k + 1), strict=True):
                inside = 0 <= plane < SIZE[2]
                borders += not inside
                assert torch.equal(channel, whole.image[0, ..., plane] if inside else torch.zeros(20, 18))
    assert borders
