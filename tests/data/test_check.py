"""Checking a data set: each fault planted in a small one, and found; all of them at once."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from medseg.data.check import Fault, FaultCode, check_dataset
from medseg.data.importers import ImportOptions, import_folder
from medseg.data.manifest import (
    CaseEntry,
    Channel,
    Dataset,
    Manifest,
    Modality,
    Splits,
    load_manifest,
    save_manifest,
)
from medseg.files import sha256_of
from medseg.labels import LabelSet
from medseg.nifti import write_nifti
from medseg.threads import map_threads
from medseg.volume import Volume

SHAPE = (6, 5, 4)
CASES = ("a", "b", "c", "d")
CHANNELS = ("T1", "T2")


def save(path: Path, array: NDArray[Any], shift_mm: float = 0.0) -> None:
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[0, 3] = shift_mm
    path.parent.mkdir(exist_ok=True)
    write_nifti(path, Volume(np.asfortranarray(array), affine))


def image(seed: int, shape: tuple[int, ...] = SHAPE) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def label(shape: tuple[int, ...] = SHAPE) -> NDArray[np.uint8]:
    array = np.zeros(shape, np.uint8)
    array[1:3, 1:3, 1:3] = 1
    array[3, 3, 3] = 3
    return array


def write_files(root: Path) -> None:
    for number, case in enumerate(CASES):
        for channel, name in enumerate(CHANNELS):
            save(root / f"{case}_{name}.nii.gz", image(10 * number + channel))
        save(root / f"{case}.nii.gz", label())


def dataset(root: Path, splits: Splits | None = None, **patients: str) -> Dataset:
    """Describe the files as they are now, checksums and all."""
    entries = tuple(
        CaseEntry(
            id=case,
            patient=patients.get(case),
            images=tuple(f"{case}_{name}.nii.gz" for name in CHANNELS),
            label=f"{case}.nii.gz",
            image_sha256=tuple(sha256_of(root / f"{case}_{name}.nii.gz") for name in CHANNELS),
            label_sha256=sha256_of(root / f"{case}.nii.gz"),
        )
        for case in CASES
    )
    manifest = Manifest(
        name="set",
        channels=tuple(Channel(name=name, modality=Modality.MR) for name in CHANNELS),
        labels=LabelSet.from_names({1: "liver", 3: "spleen"}),
        cases=entries,
        splits=splits or Splits(folds={0: ("a", "b"), 1: ("c", "d")}),
    )
    save_manifest(root / "set.yaml", manifest.model_copy(update={"root": "."}))
    return load_manifest(root / "set.yaml")


def found(faults: list[Fault]) -> list[tuple[str, str]]:
    return [(fault.case, fault.code.value) for fault in faults]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_files(tmp_path)
    return tmp_path


def test_a_whole_data_set_has_no_fault(root: Path) -> None:
    done: list[tuple[int, int]] = []
    assert check_dataset(dataset(root), lambda *step: done.append(step)) == []
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_ignored_values_and_missing_channels_are_no_faults(root: Path) -> None:
    ignored = label()
    ignored[0, 0, 0] = 7
    save(root / "a.nii.gz", ignored)
    save(root / "b.nii.gz", np.where(ignored == 7, 7, 0).astype(np.uint8))
    plain = dataset(root)
    first = plain.manifest.entries[0]
    partial = first.model_copy(update={"images": (None, "a_T2.nii.gz"), "image_sha256": None})
    manifest = plain.manifest.model_copy(update={"cases": (partial, *plain.manifest.entries[1:])})
    assert found(check_dataset(plain)) == [("a", "unknown-label"), ("b", "unknown-label")]
    save_manifest(root / "set.yaml", manifest.model_copy(update={"ignore_value": 7}))
    (root / "a_T1.nii.gz").unlink()
    faults = check_dataset(load_manifest(root / "set.yaml"))
    assert found(faults) == [("b", "empty-label")]
    assert faults[0].message == "the label is background or ignored everywhere"


def _nan(root: Path) -> None:
    array = image(1)
    array[0, 0, 0], array[1, 1, 1] = np.nan, np.inf
    save(root / "b_T2.nii.gz", array)


def _cut_short(root: Path) -> None:
    content = (root / "b_T1.nii.gz").read_bytes()
    (root / "b_T1.nii.gz").write_bytes(content[: len(content) // 2])


PLANTED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "truncated": (_cut_short, "unreadable-file", "corrupt or truncated"),
    "text": (lambda root: (root / "b_T1.nii.gz").write_text("x"), "unreadable-file", "corrupt"),
    "several times": (
        lambda root: (root / "b_T1.nii.gz").write_bytes(_four_dimensional(root)),
        "unreadable-file",
        "split",
    ),
    "shape of a channel": (
        lambda root: save(root / "b_T2.nii.gz", image(9, (6, 5, 5))),
        "channel-grid-differs",
        "6x5x5",
    ),
    "place of a channel": (
        lambda root: save(root / "b_T2.nii.gz", image(9), 0.5),
        "channel-grid-differs",
        "0.5 mm",
    ),
    "shape of the label": (lambda root: save(root / "b.nii.gz", label((7, 5, 4))), "label-grid-differs", "7x5x4"),
    "place of the label": (lambda root: save(root / "b.nii.gz", label(), -2.0), "label-grid-differs", "2 mm"),
    "value outside the table": (lambda root: save(root / "b.nii.gz", label() * 2), "unknown-label", "holds 2, 6; "),
    "negative value": (lambda root: save(root / "b.nii.gz", -label().astype(np.int16)), "unknown-label", "-3, -1"),
    "value between": (
        lambda root: save(root / "b.nii.gz", label() * np.float32(0.5)),
        "fractional-label",
        "0.5, 1.5",
    ),
    "NaN in the label": (
        lambda root: save(root / "b.nii.gz", label() * np.float32("nan")),
        "fractional-label",
        "nan",
    ),
    "nothing labelled": (lambda root: save(root / "b.nii.gz", label() * 0), "empty-label", "background everywhere"),
    "NaN": (_nan, "not-finite", "T2 holds NaN or infinity in 2 voxel(s)"),
    "constant": (lambda root: save(root / "b_T2.nii.gz", image(1) * 0 + 7), "constant-image", "T2 is 7 everywhere"),
    "duplicate": (
        lambda root: (root / "b_T2.nii.gz").write_bytes((root / "a_T1.nii.gz").read_bytes()),
        "duplicate-image",
        "T2 has the voxels of T1 of a",
    ),
}


def _four_dimensional(root: Path) -> bytes:
    path = root / "four.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 3), np.uint8), np.eye(4)), path)
    return path.read_bytes()


@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults(root: Path, name: str) -> None:
    plant, code, message = PLANTED[name]
    plant(root)
    faults = check_dataset(dataset(root))
    assert ("b", code) in found(faults), faults
    assert all(fault.case == "b" for fault in faults)
    assert message in next(fault.message for fault in faults if fault.code.value == code)
    assert len(faults) == 1


def test_duplicates_are_found_however_they_are_packed(root: Path) -> None:
    save(root / "c_T1.nii", image(0))
    (root / "c_T1.nii.gz").write_bytes(_gzip_named((root / "c_T1.nii").read_bytes()))
    assert sha256_of(root / "c_T1.nii.gz") != sha256_of(root / "a_T1.nii.gz")
    assert found(check_dataset(dataset(root))) == [("c", "duplicate-image")]


def _gzip_named(content: bytes) -> bytes:
    return gzip.compress(content, compresslevel=9, mtime=1)


def test_files_that_are_missing_or_changed(root: Path) -> None:
    described = dataset(root)
    (root / "a_T1.nii.gz").unlink()
    (root / "b.nii.gz").unlink()
    save(root / "c_T2.nii.gz", image(99))
    save(root / "d.nii.gz", np.where(label(), 1, 0).astype(np.uint8))
    assert found(check_dataset(described)) == [
        ("a", "missing-file"),
        ("b", "missing-file"),
        ("c", "checksum-differs"),
        ("d", "checksum-differs"),
    ]


def test_a_file_that_may_not_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = dataset(root)

    def forbid(path: Path) -> str:
        if path.name == "a_T1.nii.gz":
            raise PermissionError(13, "Permission denied")
        return sha256_of(path)

    monkeypatch.setattr("medseg.data.check.sha256_of", forbid)
    (fault,) = check_dataset(described)
    assert (fault.case, fault.code) == ("a", FaultCode.UNREADABLE_FILE)
    assert fault.message.endswith("a_T1.nii.gz: Permission denied")


def test_a_damaged_file_is_both_changed_and_unreadable(root: Path) -> None:
    described = dataset(root)
    _cut_short(root)
    assert found(check_dataset(described)) == [("b", "checksum-differs"), ("b", "unreadable-file")]


def test_the_label_is_compared_with_the_channel_that_can_be_read(root: Path) -> None:
    (root / "b_T1.nii.gz").write_text("x")
    save(root / "b.nii.gz", label(), 3.0)
    assert found(check_dataset(dataset(root))) == [("b", "unreadable-file"), ("b", "label-grid-differs")]


def test_everything_at_once(root: Path) -> None:
    described = dataset(root, Splits(folds={0: ("a", "b"), 1: ("b", "c")}))
    (root / "a_T1.nii.gz").unlink()
    save(root / "a.nii.gz", label() * 0)
    save(root / "b_T1.nii.gz", image(1) * 0)
    save(root / "b_T2.nii.gz", image(2, (5, 5, 5)))
    save(root / "b.nii.gz", label().astype(np.float32) * 1.5)
    (root / "c_T2.nii.gz").write_bytes((root / "d_T1.nii.gz").read_bytes())
    assert found(check_dataset(described)) == [
        ("a", "missing-file"),
        ("a", "checksum-differs"),
        ("a", "empty-label"),
        ("b", "checksum-differs"),
        ("b", "constant-image"),
        ("b", "checksum-differs"),
        ("b", "channel-grid-differs"),
        ("b", "checksum-differs"),
        ("b", "fractional-label"),
        ("c", "checksum-differs"),
        ("d", "duplicate-image"),
        ("b", "patient-in-two-folds"),
        ("d", "not-in-a-fold"),
    ]


# --- folds ---


@pytest.mark.parametrize(
    ("folds", "patients", "expected"),
    [
        ({0: ("a", "b"), 1: ("c", "d")}, {}, []),
        ({0: ("a",)}, {}, []),
        ({0: ("a", "b"), 1: ("c",)}, {}, [("d", "not-in-a-fold")]),
        ({0: ("a", "b"), 1: ("b", "c", "d")}, {}, [("b", "patient-in-two-folds")]),
        ({0: ("p",), 1: ("c", "d")}, {"a": "p", "b": "p"}, []),
        (
            {0: ("a", "c"), 1: ("b", "d")},
            {"a": "p", "b": "p"},
            [("a", "patient-in-two-folds"), ("a", "patient-on-both-sides"), ("b", "patient-on-both-sides")],
        ),
        ({0: ("a",)}, {"a": "p", "b": "p", "c": "p"}, [("a", "patient-on-both-sides")]),
    ],
)
def test_folds(
    root: Path, folds: dict[int, tuple[str, ...]], patients: dict[str, str], expected: list[tuple[str, str]]
) -> None:
    assert found(check_dataset(dataset(root, Splits(folds=folds), **patients))) == expected


def test_cases_without_a_label_take_no_part_in_folds(root: Path) -> None:
    whole = dataset(root, a="p", b="p")
    entries = [entry.model_copy(update={"label": None, "label_sha256": None}) for entry in whole.manifest.entries]
    for number, names, expected in (
        (3, {0: ("p",), 1: ("c",)}, []),
        (3, {0: ("p",), 1: ("c", "d")}, [("d", "no-label")]),
        (1, {0: ("a",), 1: ("c", "d")}, []),
    ):
        cases = list(whole.manifest.entries)
        cases[number] = entries[number]
        manifest = whole.manifest.model_copy(update={"cases": tuple(cases), "splits": Splits(folds=names)})
        unlabelled = replace(whole.cases[number], label=None, label_sha256=None)
        located = tuple(unlabelled if case.id == unlabelled.id else case for case in whole.cases)
        assert found(check_dataset(Dataset(manifest, whole.root, located))) == expected


def test_a_data_set_without_folds(root: Path) -> None:
    whole = dataset(root)
    assert check_dataset(replace(whole, manifest=whole.manifest.model_copy(update={"splits": None}))) == []


# --- the rest ---


def test_codes_are_stable_and_a_fault_reads_well() -> None:
    assert str(Fault(FaultCode.EMPTY_LABEL, "a", "nothing")) == "a: empty-label: nothing"
    assert len({code.value for code in FaultCode}) == len(FaultCode) == 15


def test_an_error_in_a_thread_drops_what_has_not_begun() -> None:
    begun: list[int] = []

    def begin(number: int) -> None:
        begun.append(number)
        time.sleep(0.01)  # so that all of them would take many seconds, on any machine

    def fail(number: int) -> None:
        begin(number)
        raise KeyError(number)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyError):
        map_threads(fail, range(5_000))
    assert len(begun) < 5_000
    begun.clear()
    with pytest.raises(KeyboardInterrupt):
        map_threads(begin, range(5_000), interrupt)
    assert len(begun) < 5_000
    assert map_threads(str, range(5)) == ["0", "1", "2", "3", "4"]


def test_at_most_four_items_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    lock, now, most = threading.Lock(), 0, 0

    def work(_: int) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.002)
        with lock:
            now -= 1

    map_threads(work, range(40))
    assert 1 < most <= 4


@pytest.mark.data
def test_a_fault_planted_among_real_cases(data_root: Path, tmp_path: Path) -> None:
    manifest = import_folder(data_root / "hippocampus", ImportOptions(folds=0))
    cases = manifest.entries[:3]
    mixed = cases[0].model_copy(update={"label": cases[1].label, "label_sha256": cases[1].label_sha256})
    save_manifest(tmp_path / "mixed.yaml", manifest.model_copy(update={"cases": (mixed, *cases[1:])}))
    faults = check_dataset(load_manifest(tmp_path / "mixed.yaml", data_root / "hippocampus"))
    assert found(faults) == [(cases[0].id, "label-grid-differs")]
