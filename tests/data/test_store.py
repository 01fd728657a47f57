"""Stored cases: the values of `prepare`, patches of numpy, and nothing stale or half-written ever read."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import medseg.data.store as store
from medseg.data.manifest import Case
from medseg.data.preprocessing import Preprocessing
from medseg.data.sampler import PatchSampler
from medseg.data.store import MAX_VOXELS_A_CLASS, StoredCase, build_store, read_case
from medseg.data.transforms import build_transforms, prepare
from medseg.errors import GridError, ManifestError, NiftiError, StorageError
from medseg.labels import LabelSet
from medseg.nifti import write_nifti
from medseg.volume import Volume
from tests.affines import affine_of, rotation
from tests.builders import LABELS, tiny_dataset
from tests.data.stored import stored_case

PLAIN = Preprocessing.model_validate({"intensity": ({"kind": "zscore"},)})
OTHER = PLAIN.model_copy(update={"spacing_mm": (2.0, 2.0, 2.0)})


@pytest.fixture
def cases(tmp_path: Path) -> tuple[Case, ...]:
    return tiny_dataset(tmp_path / "data", cases=3).cases


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of every file."""
    return {str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.rglob("*.*")}


def case_of(folder: Path, label: np.ndarray, affine: np.ndarray | None = None, shift: float = 0.0) -> Case:
    affine = np.eye(4) if affine is None else affine
    image = np.random.default_rng(0).normal(0, 1, label.shape).astype(np.float32)
    write_nifti(folder / "image.nii", Volume(image, affine))
    moved = affine.copy()
    moved[0, 3] += shift
    write_nifti(folder / "label.nii", Volume(label, moved))
    return Case("one", "one", (folder / "image.nii",), folder / "label.nii")


# --- what is stored ---


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_stored_case_is_what_prepare_returns(tmp_path, cases, dtype):
    done: list[tuple[int, int]] = []
    preprocessing = OTHER.model_copy(update={"crop_above": 50.0})
    stored = build_store(
        tmp_path / "store", cases, preprocessing, LABELS, lambda *step: done.append(step), dtype=dtype
    )
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert [case.id for case in stored] == ["case_0", "case_1", "case_2"]
    assert len({case.folder for case in stored}) == 3
    transforms = build_transforms(preprocessing, 1)
    for case, source in zip(stored, cases, strict=True):
        images, label = read_case(source)
        expected = prepare(transforms, images, label)
        image = expected.image.numpy().astype(dtype)
        np.testing.assert_array_equal(case.image, image)
        assert case.image.dtype == dtype
        assert isinstance(case.image, np.memmap)
        np.testing.assert_array_equal(case.grid.affine, expected.grid.affine)
        assert case.shape == case.grid.shape == tuple(expected.image.shape[1:])
        values = np.array([0, 1, 3])  # class index -> label value
        np.testing.assert_array_equal(values[case.label], expected.label)
        whole = case.whole()
        np.testing.assert_array_equal(whole.image, image)
        np.testing.assert_allclose(whole.image, expected.image, rtol=2**-11, atol=2**-24)
        assert whole.image.dtype == torch.float32
        np.testing.assert_array_equal(values[whole.label], expected.label)
        assert whole.grid.difference(expected.grid) is None
        assert not list(case.folder.glob(".*"))


@pytest.mark.parametrize("held_as", ["u4", "i8", "f4", "f8"])
def test_label_values_with_gaps_become_class_indices(tmp_path, held_as):
    values = [0, 2, 7, 300, 70_000, 16_000_000]
    labels = LabelSet.from_names({value: f"label {value}" for value in values[1:]})
    array = np.random.default_rng(0).choice(values, (9, 8, 7)).astype(held_as)
    (stored,) = build_store(tmp_path / "store", [case_of(tmp_path, array)], PLAIN, labels)
    assert stored.label.dtype == np.uint8
    np.testing.assert_array_equal(np.array(values)[stored.label], array)
    assert stored.classes.tolist() == [1, 2, 3, 4, 5]
    for index, value in enumerate(values[1:], start=1):
        i, j, k = stored.voxels_of(index).T
        assert len(i) == 9 * 8 * 7 // 8 // 5
        assert (array[i, j, k] == value).all()


def test_more_classes_than_a_byte_holds(tmp_path):
    labels = LabelSet.from_names({value: f"l{value}" for value in range(1, 301)})
    array = np.resize(np.arange(301, dtype=np.uint16), (8, 8, 8))
    (stored,) = build_store(tmp_path / "store", [case_of(tmp_path, array)], PLAIN, labels)
    np.testing.assert_array_equal(stored.label, array)


def test_channels_are_stored_in_the_order_of_the_case(tmp_path):
    case = case_of(tmp_path, np.ones((6, 5, 4), np.uint8))
    write_nifti(tmp_path / "second.nii", Volume(np.arange(120).reshape(6, 5, 4).astype(np.int16), np.eye(4)))
    both = replace(case, images=(case.images[0], tmp_path / "second.nii"))
    swapped = replace(case, images=both.images[::-1])
    one, two = build_store(tmp_path / "store", [both, swapped], PLAIN, LABELS)
    assert one.image.shape == (2, 6, 5, 4)
    assert one.folder != two.folder
    np.testing.assert_array_equal(one.image, two.image[::-1])
    assert np.corrcoef(one.image[1].ravel(), np.arange(120))[0, 1] > 0.999


def test_voxels_of_a_large_class_are_thinned_out_without_repeats(tmp_path):
    array = np.ones((60, 60, 50), np.uint8)
    array[:2] = 0
    array[5, 5, 5] = 3
    case = case_of(tmp_path, array)
    (stored,) = build_store(tmp_path / "a", [case], PLAIN, LABELS)
    (again,) = build_store(tmp_path / "b", [case], PLAIN, LABELS)
    voxels = stored.voxels_of(1)
    assert len(np.unique(voxels, axis=0)) == len(voxels) == MAX_VOXELS_A_CLASS
    assert (array[tuple(voxels.T)] == 1).all()
    assert stored.voxels_of(2).tolist() == [[5, 5, 5]]
    np.testing.assert_array_equal(voxels, again.voxels_of(1))


def test_a_case_without_any_label(tmp_path):
    (stored,) = build_store(tmp_path / "store", [case_of(tmp_path, np.zeros((6, 5, 4), np.uint8))], PLAIN, LABELS)
    assert stored.classes.size == 0
    assert stored.voxels_of(1).shape == (0, 3)


def test_the_grid_of_an_oblique_case_comes_back_to_the_last_bit(tmp_path):
    affine = affine_of(rotation((10, 20, 30)), (0.7, 1.1, 5.0), (1 / 3, 2 / 3, 1e-7))
    case = case_of(tmp_path, np.ones((6, 5, 4), np.uint8), affine)
    (stored,) = build_store(tmp_path / "store", [case], PLAIN, LABELS)
    images, _ = read_case(case)
    np.testing.assert_array_equal(stored.grid.affine, prepare(build_transforms(PLAIN, 1), images).grid.affine)


# --- patches ---


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(corner=st.tuples(*[st.integers(-12, 14)] * 3), size=st.tuples(*[st.integers(1, 13)] * 3))
def test_a_patch_is_numpys_slice_of_the_padded_case(shared_case, corner, size):
    margin = 30
    pad = [(margin, margin)] * 3
    place = tuple(slice(c + margin, c + margin + s) for c, s in zip(corner, size, strict=True))
    image, label = shared_case.patch(corner, size)
    np.testing.assert_array_equal(image, np.pad(shared_case.image, [(0, 0), *pad])[(slice(None), *place)])
    np.testing.assert_array_equal(label, np.pad(shared_case.label, pad)[place])
    assert (str(image.dtype), str(label.dtype)) == ("torch.float32", "torch.int64")


@pytest.fixture(scope="module")
def shared_case(tmp_path_factory) -> StoredCase:
    rng = np.random.default_rng(0)
    return stored_case(
        tmp_path_factory.mktemp("shared") / "a", rng.normal(size=(2, 7, 6, 5)), rng.integers(0, 4, (7, 6, 5))
    )


def test_a_patch_is_a_copy(shared_case):
    image, label = shared_case.patch((0, 0, 0), (7, 6, 5))
    image += 1
    label += 1
    again, label_again = shared_case.patch((0, 0, 0), (7, 6, 5))
    np.testing.assert_array_equal(again + 1, image)
    np.testing.assert_array_equal(label_again + 1, label)


# --- old and new ---


def test_what_is_stored_already_is_not_written_again(tmp_path, cases, monkeypatch):
    folder = tmp_path / "store"
    first = build_store(folder, cases, PLAIN, LABELS)
    before = snapshot(folder)
    monkeypatch.setattr(store, "read_nifti", lambda path: pytest.fail("a stored case was read again"))
    assert build_store(folder, cases, PLAIN, LABELS) == first
    assert snapshot(folder) == before


def test_a_changed_file_gives_a_new_case_and_leaves_the_others(tmp_path, cases):
    folder = tmp_path / "store"
    first = build_store(folder, cases, PLAIN, LABELS)
    before = snapshot(folder)
    images, label = read_case(cases[1])
    write_nifti(cases[1].label, Volume((label.array > 0).astype(np.uint8), label.affine))
    second = build_store(folder, cases, PLAIN, LABELS)
    assert [a.folder == b.folder for a, b in zip(first, second, strict=True)] == [True, False, True]
    assert before.items() < snapshot(folder).items()
    assert set(np.unique(second[1].label)) == {0, 1}
    write_nifti(cases[1].images[0], Volume(images[0].array * 2 + 1, label.affine))
    assert build_store(folder, cases, PLAIN, LABELS)[1].folder not in {first[1].folder, second[1].folder}


def test_a_file_of_the_same_size_written_later_counts_as_changed(tmp_path, cases):
    first = build_store(tmp_path / "store", cases, PLAIN, LABELS)
    status = cases[0].images[0].stat()
    os.utime(cases[0].images[0], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert build_store(tmp_path / "store", cases, PLAIN, LABELS)[0].folder != first[0].folder


@pytest.mark.parametrize(
    "change",
    [
        {"spacing_mm": (2.0, 2.0, 2.0)},
        {"crop_above": 0.0},
        {"intensity": ({"kind": "zscore", "nonzero": True},)},
        {"intensity": ({"kind": "ct", "clip_hu": (0, 1), "mean_hu": 0, "std_hu": 1},)},
    ],
)
def test_other_settings_give_another_case(tmp_path, cases, change):
    other = Preprocessing.model_validate(PLAIN.model_dump() | change)
    one = build_store(tmp_path / "store", cases[:1], PLAIN, LABELS)[0]
    two = build_store(tmp_path / "store", cases[:1], other, LABELS)[0]
    assert one.folder != two.folder


def test_other_labels_give_another_case_and_other_names_do_not(tmp_path, cases):
    more = LabelSet.from_names({1: "ball", 2: "none", 3: "box"})
    renamed = LabelSet.from_names({1: "sphere", 3: "cube"})
    one, two, three = (
        build_store(tmp_path / "s", cases[:1], PLAIN, labels)[0] for labels in (LABELS, more, renamed)
    )
    assert one.folder != two.folder
    assert one.folder == three.folder
    assert set(np.unique(two.label)) == {0, 1, 3}
    assert set(np.unique(one.label)) == {0, 1, 2}


# --- refusals ---


@pytest.mark.parametrize("value", [2, 200, -1, 0.5, np.nan])
def test_values_without_a_meaning_are_refused(tmp_path, value):
    array = np.zeros((5, 5, 5), np.float32)
    array[1, 1, 1] = value
    with pytest.raises(ManifestError, match=r"label\.nii: expected the values 0, 1, 3, found also") as caught:
        build_store(tmp_path / "store", [case_of(tmp_path, array)], PLAIN, LABELS)
    assert caught.value.found == f"also {value:g}"
    assert not (tmp_path / "store").exists()


def test_a_label_on_another_grid_is_refused(tmp_path):
    case = case_of(tmp_path, np.ones((5, 5, 5), np.uint8), shift=1.0)
    with pytest.raises(GridError, match="1 mm"):
        build_store(tmp_path / "store", [case], PLAIN, LABELS)
    with pytest.raises(GridError, match="1 mm"):
        read_case(case)


def test_cases_without_a_label_or_a_file_are_refused(tmp_path):
    case = case_of(tmp_path, np.ones((5, 5, 5), np.uint8))
    with pytest.raises(ManifestError, match="one: expected a label, found none"):
        build_store(tmp_path / "store", [replace(case, label=None)], PLAIN, LABELS)
    case.label.unlink()
    with pytest.raises(NiftiError, match="no such file"):
        build_store(tmp_path / "store", [case], PLAIN, LABELS)
    assert build_store(tmp_path / "store", [], PLAIN, LABELS) == []


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc")
def test_no_file_stays_open_however_many_cases_there_are(tmp_path):
    cases = [stored_case(tmp_path / str(n), np.ones((1, 6, 6, 6)), np.ones((6, 6, 6), dtype=int)) for n in range(3)]
    sampler = PatchSampler(cases, (4, 4, 4), 1.0, 0)
    kept = [sampler.sample(0, index) for index in range(6)]
    assert len(kept) == 6
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    assert not [file for file in Path("/proc/self/fd").iterdir() if str(tmp_path) in os.path.realpath(file)]


def test_a_store_that_cannot_be_written_is_a_storage_error(tmp_path, cases):
    (tmp_path / "store").write_text("a file")
    with pytest.raises(StorageError):
        build_store(tmp_path / "store", cases, PLAIN, LABELS)
