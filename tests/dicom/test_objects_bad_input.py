"""What objects cannot be made of is refused before anything is made; what is odd in the source stays as it is."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from medseg.dicom.capture import make_captures
from medseg.dicom.identity import Identity
from medseg.dicom.object_parts import save_object
from medseg.dicom.origin import Origin, read_origin, require_known_values
from medseg.dicom.output_options import CaptureOptions, RtstructOptions, SegOptions, SrOptions
from medseg.dicom.policy import Policies
from medseg.dicom.proof import prove_segmentation, prove_structure_set
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.report_proof import prove_report
from medseg.dicom.rtstruct import make_structure_set
from medseg.dicom.scan import scan_pile
from medseg.dicom.seg import make_segmentation
from medseg.dicom.sr import make_measurement_report
from medseg.dicom.stack import Stack, stack_series
from medseg.errors import DicomError, GridError, InputError, StorageError
from medseg.findings import FindingCode
from medseg.labels import Label, LabelMap, LabelSet
from medseg.maker import Maker
from medseg.measurements import measure
from medseg.volume import Volume
from tests.dicom.builder import SeriesSpec, write_series
from tests.dicom.enhanced_builder import write_enhanced
from tests.dicom.proving import LABELS, blobs, label_map, origin_in

MAKER = Maker("model", "ab" * 32)
SPEC = SeriesSpec("odd", shape=(20, 16, 5))


def seg(origin: Origin, labels: LabelMap, **options: Any) -> Dataset:
    return make_segmentation(origin, labels, Identity(origin, MAKER, "seg"), SegOptions(**options)).dataset


def label_map_seg(origin: Origin, labels: LabelMap, **options: Any) -> Dataset:
    return seg(origin, labels, type="LABELMAP", **options)


def rtstruct(origin: Origin, labels: LabelMap, **options: Any) -> Dataset:
    identity = Identity(origin, MAKER, "rtstruct")
    return make_structure_set(origin, labels, identity, RtstructOptions(**options)).dataset


def report(origin: Origin, labels: LabelMap, **options: Any) -> Dataset:
    identity, measured = Identity(origin, MAKER, "sr"), measure(labels, None)
    return make_measurement_report(origin, measured, identity, SrOptions(**options)).dataset


def capture(origin: Origin, labels: LabelMap, **options: Any) -> Dataset:
    identity, picture = Identity(origin, MAKER, "capture"), np.zeros((8, 8, 3), dtype=np.uint8)
    return make_captures(origin, [picture], identity, CaptureOptions(**options))[0]


OF_MASKS = [seg, label_map_seg, rtstruct]
ALL = [*OF_MASKS, report, capture]
Make = Callable[..., Dataset]


def source(folder: Path, **attributes: Any) -> Origin:
    write_series(folder, replace(SPEC, attributes=attributes))
    return origin_in(folder)


def mask(origin: Origin, labels: LabelSet = LABELS) -> LabelMap:
    return label_map(origin, blobs(SPEC.shape), labels)


def saved(dataset: Dataset, folder: Path) -> Path:
    save_object(dataset, folder / "object.dcm")
    return folder / "object.dcm"


def prove(path: Path, origin: Origin, labels: LabelMap) -> None:
    dataset = dcmread(path, stop_before_pixels=True)
    if dataset.Modality == "SEG":
        prove_segmentation(path, origin, labels, options=SegOptions(type=dataset.SegmentationType))
    elif dataset.Modality in (by_modality := {"RTSTRUCT": prove_structure_set, "SR": prove_report}):
        by_modality[dataset.Modality](path, origin, labels)


# --- the mask ---


@pytest.mark.parametrize("make", OF_MASKS)
@pytest.mark.parametrize(
    "change",
    [
        lambda array, affine: (array, affine + _moved(0.01)),
        lambda array, affine: (array[:-1], affine),
        lambda array, affine: (array, affine @ np.diag([-1.0, 1, 1, 1])),
        lambda array, affine: (array.transpose(1, 0, 2), affine),
    ],
    ids=["moved", "cut", "mirrored", "transposed"],
)
def test_a_mask_on_another_grid_is_refused(tmp_path: Path, make: Make, change: Any) -> None:
    origin = source(tmp_path)
    array, affine = change(blobs(SPEC.shape), origin.grid.affine)
    with pytest.raises(GridError, match=f"the grid of series {origin.stack.series.name}"):
        make(origin, LabelMap(Volume(np.asfortranarray(array), affine), LABELS))


def _moved(millimetres: float) -> Any:
    off = np.zeros((4, 4))
    off[0, 3] = millimetres
    return off


@pytest.mark.parametrize("make", OF_MASKS)
def test_a_value_that_the_labels_do_not_name_is_refused(tmp_path: Path, make: Make) -> None:
    origin = source(tmp_path)
    fewer = LabelSet.from_names({2: "liver", 7: "kidney_right"})
    with pytest.raises(InputError) as caught:
        make(origin, mask(origin, fewer))
    assert caught.value.expected == "values that the labels name: 0, 2 (liver), 7 (kidney_right)"
    assert caught.value.found == "value(s) 5"


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
def test_every_strange_value_is_named_once(tmp_path: Path, kind: Any) -> None:
    origin = source(tmp_path)
    array = np.zeros(SPEC.shape, dtype=kind)
    require_known_values(label_map(origin, array))
    array[1, 2, 3], array[4, 5, 0], array[4, 5, 1], array[0, 0, 4] = 3, 101, 101, 2
    with pytest.raises(InputError, match=r"found value\(s\) 3, 101; "):
        require_known_values(label_map(origin, array))


@pytest.mark.parametrize("make", ALL[:-1])
def test_an_empty_mask_is_refused(tmp_path: Path, make: Make) -> None:
    origin = source(tmp_path)
    with pytest.raises(DicomError) as caught:
        make(origin, label_map(origin, np.zeros(SPEC.shape, dtype=np.uint8)))
    assert caught.value.reason == FindingCode.ORGAN_ABSENT.value


# --- the series ---


def stack_in(folder: Path) -> Stack:
    (series,) = scan_pile(folder).series
    with quiet_pydicom():
        return stack_series(series, Policies())


@pytest.mark.parametrize("is_enhanced", [False, True], ids=["classic", "enhanced"])
@pytest.mark.parametrize("how", ["longer", "touched", "gone"])
def test_slices_that_changed_since_they_were_found_are_refused(tmp_path: Path, is_enhanced: bool, how: str) -> None:
    paths = [write_enhanced(tmp_path, SPEC)] if is_enhanced else write_series(tmp_path, SPEC)
    stack, path = stack_in(tmp_path), paths[-1]
    read_origin(stack)
    if how == "longer":
        path.write_bytes(path.read_bytes() + b"\0\0")
    elif how == "touched":
        os.utime(path, ns=(1, 1))
    else:
        path.unlink()
    with pytest.raises(DicomError) as caught:
        read_origin(stack)
    assert caught.value.reason == FindingCode.UNREADABLE_FILE.value
    assert caught.value.expected == "the files as they were when they were found"
    assert path.name not in str(caught.value)


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_a_series_that_nothing_can_refer_to_is_refused(tmp_path: Path, keyword: str) -> None:
    write_series(tmp_path, replace(SPEC, attributes={keyword: None}))
    with pytest.raises(DicomError, match="StudyInstanceUID, SeriesInstanceUID and SOPInstanceUID") as caught:
        read_origin(stack_in(tmp_path))
    assert caught.value.reason == FindingCode.SERIES_UID_MISSING.value


@pytest.mark.parametrize("make", ALL)
def test_a_uid_that_only_the_file_meta_information_has_is_referred_to(tmp_path: Path, make: Make) -> None:
    paths = write_series(tmp_path / "series", SPEC)
    for path in paths:
        dataset = dcmread(path)
        del dataset.SOPInstanceUID
        dataset.save_as(path)
    origin = origin_in(tmp_path / "series")
    labels = mask(origin)
    path = saved(make(origin, labels), tmp_path)
    prove(path, origin, labels)
    if make is not capture:
        assert str(dcmread(paths[0]).file_meta.MediaStorageSOPInstanceUID) in str(dcmread(path))


@pytest.mark.parametrize("make", OF_MASKS)
def test_a_frame_of_reference_is_only_made_up_on_demand(tmp_path: Path, make: Make) -> None:
    origin = source(tmp_path / "series", FrameOfReferenceUID=None)
    labels = mask(origin)
    with pytest.raises(DicomError, match="FrameOfReferenceUID") as caught:
        make(origin, labels)
    assert caught.value.reason == FindingCode.MADE_FRAME_OF_REFERENCE.value
    path = saved(make(origin, labels, without_frame_of_reference="make"), tmp_path)
    prove(path, origin, labels)
    again = saved(make(origin, labels, without_frame_of_reference="make"), tmp_path / "again")
    assert path.read_bytes() == again.read_bytes()


TYPE_2 = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime")
MORE_TYPE_2 = ("ReferringPhysicianName", "StudyID", "AccessionNumber")


@pytest.mark.parametrize("make", ALL)
def test_attributes_that_are_missing_stay_empty(tmp_path: Path, make: Make) -> None:
    origin = source(tmp_path / "series", **dict.fromkeys((*TYPE_2, *MORE_TYPE_2)))
    labels = mask(origin)
    path = saved(make(origin, labels), tmp_path)
    dataset = dcmread(path)
    for keyword in (*TYPE_2, *MORE_TYPE_2):
        assert keyword in dataset
        assert not dataset[keyword].value, keyword
    prove(path, origin, labels)


# --- texts ---

NAMES = {
    "ISO_IR 100": "Müller^Jörg",
    "ISO_IR 144": "Люкceмбypг",
    "ISO_IR 192": "Wáng^XiǎoDōng=王^小东",
    "ISO 2022 IR 6\\ISO 2022 IR 87": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "ISO 2022 IR 6\\ISO 2022 IR 149": "Hong^Gildong=洪^吉洞=홍^길동",
    "GB18030": "Wang^XiaoDong=王^小东",
}


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize(
    ("charset", "label_name"),
    [
        *((charset, "liver") for charset in NAMES),
        ("ISO_IR 100", "größere Leber"),
        ("ISO_IR 100", "肝臓"),
        ("ISO 2022 IR 6\\ISO 2022 IR 87", "肝臓"),
        ("ISO_IR 144", "größere Leber"),
    ],
)
def test_names_survive_in_any_character_set(tmp_path: Path, make: Make, charset: str, label_name: str) -> None:
    origin = source(tmp_path / "series", SpecificCharacterSet=charset.split("\\"), PatientName=NAMES[charset])
    labels = mask(origin, LabelSet((Label(index=2, name=label_name), *tuple(LABELS)[1:])))
    path = saved(make(origin, labels), tmp_path)
    dataset = dcmread(path)
    dataset.decode()
    assert str(dataset.PatientName) == NAMES[charset]
    texts = {
        "SEG": lambda: dataset.SegmentSequence[-3 if dataset.SegmentSequence[0].SegmentNumber else 1].SegmentLabel,
        "RTSTRUCT": lambda: dataset.StructureSetROISequence[0].ROIName,
    }
    if dataset.Modality in texts:
        assert texts[dataset.Modality]() == label_name
    prove(path, origin, labels)


# --- the disk ---


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond a size: what is written fails half-way, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("make", ALL)
def test_what_fails_half_way_leaves_nothing_behind(tmp_path: Path, make: Make) -> None:
    origin = source(tmp_path / "series")
    dataset, folder = make(origin, mask(origin)), tmp_path / "out"
    with largest_file(500), pytest.raises(StorageError, match=r"object\.dcm"):
        save_object(dataset, folder / "object.dcm")
    assert list(folder.iterdir()) == []
    save_object(dataset, folder / "object.dcm")
    whole = (folder / "object.dcm").read_bytes()
    with largest_file(500), pytest.raises(StorageError):
        save_object(dataset, folder / "object.dcm")
    assert [path.read_bytes() for path in folder.iterdir()] == [whole]


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = source(tmp_path / "series")
    dataset = seg(origin, mask(origin))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("medseg.files.os.fsync", full)
    with pytest.raises(StorageError, match="the disk is full") as caught:
        save_object(dataset, tmp_path / "out" / "object.dcm")
    assert caught.value.exit_status == 4
    assert list((tmp_path / "out").iterdir()) == []
