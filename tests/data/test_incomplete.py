"""Voxels that nobody judged and channels that cases lack, from files to batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg.data.augment import Augmentation
from medseg.data.channels import require_channels
from medseg.data.fingerprint import measure_case, summarize
from medseg.data.loader import PatchLoader
from medseg.data.manifest import Case
from medseg.data.measure import measure_cases
from medseg.data.preprocessing import Preprocessing
from medseg.data.sampler import PatchSampler
from medseg.data.store import build_store, read_case
from medseg.errors import GridError, ManifestError, UsageError
from medseg.labels import LabelSet
from medseg.nifti import write_nifti
from medseg.volume import Volume

LABELS = LabelSet.from_names({2: "liver", 5: "tumour"})
IGNORED = 9
SHAPE = (12, 11, 10)
PLAIN = Preprocessing.model_validate(
    {"spacing_mm": ("keep",) * 3, "intensity": ({"kind": "zscore"},), "channel_flags": True}
)


def image(seed: int) -> Volume:
    array = np.random.default_rng(seed).normal(100, 10, SHAPE).astype(np.float32)
    return Volume(np.asfortranarray(array), np.eye(4))


def label() -> Volume:
    """The upper half was judged: a liver with a tumour in it."""
    array = np.full(SHAPE, IGNORED, np.uint8)
    array[:, :, 5:] = 0
    array[2:8, 2:8, 5:9] = 2
    array[4:6, 4:6, 6:8] = 5
    return Volume(np.asfortranarray(array), np.eye(4))


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    """One case with both channels, one with either alone."""
    found = []
    for number, present in enumerate([(True, True), (True, False), (False, True)]):
        files = [tmp_path / f"{number}_{channel}.nii" if there else None for channel, there in enumerate(present)]
        for channel, file in enumerate(files):
            if file:
                write_nifti(file, image(10 * number + channel))
        write_nifti(tmp_path / f"{number}.nii", label())
        found.append(Case(str(number), str(number), tuple(files), tmp_path / f"{number}.nii"))
    return found


def test_ignored_voxels_are_a_class_of_their_own_that_is_never_drawn(cases, tmp_path):
    stored = build_store(tmp_path / "s", cases, PLAIN, LABELS, ignore_value=IGNORED)[0]
    expected = np.select([label().array == value for value in (2, 5, IGNORED)], [1, 2, 3], 0)
    assert np.array_equal(stored.label, expected)
    assert stored.classes.tolist() == [1, 2]
    assert stored.has_ignored
    for index, values in ((0, (0, 1, 2)), (1, (1,)), (2, (2,)), (3, ())):
        voxels = stored.voxels_of(index)
        assert len(voxels) == len(np.unique(voxels, axis=0))
        assert np.isin(expected[tuple(voxels.T)], values).all()
    assert len(stored.voxels_of(2)) == 8
    with pytest.raises(ManifestError, match="the values 0, 2, 5, found also 9"):
        build_store(tmp_path / "s", cases, PLAIN, LABELS)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_no_patch_is_centred_on_an_ignored_voxel(cases, tmp_path, share):
    stored = build_store(tmp_path / "s", cases, PLAIN, LABELS, ignore_value=IGNORED)
    sampler = PatchSampler(stored, (1, 1, 1), share, seed=0)
    drawn = torch.cat([sampler.sample(0, index)[1].ravel() for index in range(300)])
    assert (drawn != 3).all()
    assert (0 in drawn) == (share < 1)
    assert 1 in drawn
    assert 2 in drawn or not share


def test_missing_channels_are_zeros_that_stay_zero_and_are_flagged(cases, tmp_path):
    stored = build_store(tmp_path / "s", cases, PLAIN, LABELS, ignore_value=IGNORED)
    assert [case.present for case in stored] == [(True, True), (True, False), (False, True)]
    assert [case.whole().present for case in stored] == [None, (True, False), (False, True)]
    sampler = PatchSampler(stored, (6, 6, 6), 0.5, seed=0)
    loader = PatchLoader(sampler, Augmentation(), 6, 5, torch.device("cpu"), channel_flags=True)
    batches = loader.batches(0)
    for step in range(3):
        images, _ = next(batches)
        assert images.shape == (6, 4, 6, 6, 6)
        for place, one in enumerate(images):
            present = sampler.case(0, 6 * step + place).present
            for channel, there in enumerate(present):
                assert (one[2 + channel] == there).all()
                assert bool(one[channel].any()) == there
    batches.close()


def test_channels_are_dropped_by_seed_epoch_and_index_alone(cases, tmp_path):
    stored = build_store(tmp_path / "s", cases, PLAIN, LABELS, ignore_value=IGNORED)
    one, other = (PatchSampler(stored, (4, 4, 4), 0.5, 0, channel_dropout=0.4) for _ in range(2))
    drawn = {index: one.present(1, index) for index in range(300)}
    assert drawn == {index: other.present(1, index) for index in reversed(range(300))}
    of_whole = [kept for index, kept in drawn.items() if one.case(1, index).id == "0"]
    assert set(of_whole) == {(True, True), (True, False), (False, True)}
    assert of_whole.count((True, True)) / len(of_whole) == pytest.approx(0.36, abs=0.12)
    assert all(any(kept) for kept in drawn.values())
    plain = PatchSampler(stored, (4, 4, 4), 0.5, 0)
    for index in range(5):  # the same patches as without
        assert torch.equal(one.sample(1, index)[0], plain.sample(1, index)[0])


def test_a_channel_is_measured_in_the_cases_that_have_it(cases, tmp_path):
    fingerprint = summarize(measure_cases(cases, tmp_path / "kept", ignore_value=IGNORED))
    inside = np.isin(label().array, (2, 5))
    for channel, numbers in ((0, (0, 1)), (1, (0, 2))):
        values = np.concatenate([image(10 * n + channel).array[inside] for n in numbers]).astype(np.float64)
        assert fingerprint.foreground[channel].mean == pytest.approx(values.mean(), rel=1e-6)
        assert fingerprint.foreground[channel].std == pytest.approx(values.std(), rel=1e-6)
    assert fingerprint.label_values == (2, 5)
    again = summarize(measure_cases(cases, tmp_path / "kept"))  # what is ignored is part of what is kept
    assert again.label_values == (2, 5, IGNORED)


def test_nothing_judged_but_background_is_no_foreground():
    unjudged = np.zeros(SHAPE, np.uint8)
    unjudged[0] = IGNORED
    measured = measure_case([image(0)], Volume(unjudged, np.eye(4)), ignore_value=IGNORED)
    assert [len(samples) for samples in (*measured.samples, *measured.everywhere)] == [0, unjudged.size]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_case_that_nobody_judged_is_sampled_anywhere(cases, tmp_path, share):
    write_nifti(cases[0].label, Volume(np.full(SHAPE, IGNORED, np.uint8, order="F"), np.eye(4)))
    stored = build_store(tmp_path / "s", cases[:1], PLAIN, LABELS, ignore_value=IGNORED)
    sampler = PatchSampler(stored, (1, 1, 1), share, seed=0)
    drawn = [sampler.sample(0, index) for index in range(100)]
    assert {int(label) for _, label in drawn} == {3}
    assert len({image.ravel().numpy().tobytes() for image, _ in drawn}) > 80


def test_a_store_of_other_channels_or_ignored_values_is_another(cases, tmp_path):
    swapped = replace(cases[1], images=cases[1].images[::-1])
    one, two = build_store(tmp_path / "s", [cases[1], swapped], PLAIN, LABELS, ignore_value=IGNORED)
    assert one.folder != two.folder
    assert (one.present, two.present) == ((True, False), (False, True))
    more = LabelSet.from_names({2: "liver", 5: "tumour", 9: "bowel"})
    assert build_store(tmp_path / "s", [cases[1]], PLAIN, more)[0].folder != one.folder


def test_the_channels_that_are_there_share_a_grid(cases, tmp_path):
    images, _ = read_case(cases[1])
    assert images[1] is None
    moved = Volume(image(3).array, np.diag([1, 1, 2, 1.0]))
    write_nifti(tmp_path / "moved.nii", moved)
    with pytest.raises(GridError):
        read_case(replace(cases[1], images=(None, tmp_path / "moved.nii")))


def test_cases_that_lack_channels_need_flags(cases):
    require_channels(cases[:1], cases[:1], flags=False)
    require_channels(cases, cases, flags=True)
    with pytest.raises(UsageError, match=r"channel_flags: expected true.*2 of 3 cases lack one: 1, 2"):
        require_channels(cases, cases, flags=False)
    with pytest.raises(UsageError, match="none of 1 has channel 1"):
        require_channels(cases[1:2], cases, flags=True)
