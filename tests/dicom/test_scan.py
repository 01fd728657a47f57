"""Grouping of files by header."""

from __future__ import annotations

import shutil
from pathlib import Path

import pydicom
import pytest

from medseg.dicom.scan import scan_pile
from medseg.dicom.series import Series, short_hash
from medseg.dicom.write import write_series
from medseg.errors import DicomError
from medseg.findings import FindingCode
from tests.dicom.one import scan_folder
from tests.dicom.written_series import Alter, make_volume


def codes(series: Series) -> set[FindingCode]:
    return {finding.code for finding in series.findings}


def pile_codes(path: Path) -> set[FindingCode]:
    return {finding.code for finding in scan_pile(path).findings}


def test_groups_by_series_uid_through_subfolders(tmp_path: Path) -> None:
    uids = {}
    for name, modality in (("a", "CT"), ("b", "MR")):
        files = write_series(make_volume(modality), tmp_path / "study" / name, identity=name)
        uids[modality] = pydicom.dcmread(files[0]).SeriesInstanceUID
    found = scan_folder(tmp_path)
    got = [(s.modality, len(s.frames), s.header.series_uid) for s in found]
    assert got == [("CT", 6, uids["CT"]), ("MR", 6, uids["MR"])]
    assert all(series.findings == () for series in found)


def test_the_name_is_a_hash_and_the_uid_is_not_shown(folder: Path) -> None:
    (series,) = scan_folder(folder)
    uid = series.header.series_uid
    assert series.name == short_hash(uid)
    assert len(series.name) == 12
    assert uid not in repr(series)
    assert uid not in repr(series.header)
    assert uid not in repr(series.frames[0])


@pytest.mark.parametrize("uid", ["", None])
def test_files_without_a_series_uid_are_one_series_with_a_finding(
    folder: Path, alter: Alter, uid: str | None
) -> None:
    alter(SeriesInstanceUID=uid)
    (series,) = scan_folder(folder)
    assert series.header.series_uid == ""
    assert FindingCode.SERIES_UID_MISSING in codes(series)


def test_a_missing_sop_class_is_a_finding(folder: Path, alter: Alter) -> None:
    alter([1], SOPClassUID="")
    (series,) = scan_folder(folder)
    assert codes(series) == {FindingCode.SOP_CLASS_MISSING}
    assert len(series.frames) == 6


def test_other_files_are_skipped_with_findings(folder: Path, alter: Alter) -> None:
    files = sorted(folder.iterdir())
    (folder / "readme.txt").write_text("hello")
    (folder / "thumbs.db").write_bytes(bytes(range(256)))
    shutil.copy(files[0], folder / "report.dcm")
    dataset = pydicom.dcmread(folder / "report.dcm")
    dataset.SOPClassUID = pydicom.uid.BasicTextSRStorage
    dataset.save_as(folder / "report.dcm")
    scan = scan_pile(folder)
    (series,) = scan.series
    assert len(series.frames) == 6
    assert scan.files == 9
    assert pile_codes(folder) == {FindingCode.NOT_DICOM, FindingCode.NOT_AN_IMAGE}
    assert any("2 file(s)" in finding.message for finding in scan.findings)


@pytest.mark.parametrize("length", [0, 131, 140, 200, 400, 900])
def test_a_cut_header_is_a_damaged_file(folder: Path, length: int) -> None:
    victim = sorted(folder.iterdir())[-1]
    victim.write_bytes(victim.read_bytes()[:length])
    (series,) = scan_folder(folder)
    assert len(series.frames) == 5
    assert codes(series) == {FindingCode.DAMAGED_FILE}
    assert series.damaged_beside == 1
    assert pile_codes(folder) == {FindingCode.DAMAGED_FILE}


def test_a_private_object_is_not_an_image(folder: Path) -> None:
    """Such as Siemens' CSA non-image objects, which lie beside images."""
    file = sorted(folder.iterdir())[-1]
    dataset = pydicom.dcmread(file)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.3.12.2.1107.5.9.1"
    del dataset.Rows, dataset.PixelData
    dataset.save_as(file)
    assert pile_codes(folder) == {FindingCode.NOT_AN_IMAGE}


def test_a_damaged_file_counts_for_the_series_of_its_folder_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_series(make_volume(), tmp_path / name, identity=name)
    (tmp_path / "a" / "empty.dcm").write_bytes(b"")
    (tmp_path / "empty.dcm").write_bytes(b"")
    one, two = scan_folder(tmp_path)
    assert (one.damaged_beside, two.damaged_beside) == (1, 0)


def test_a_damaged_file_among_several_series_is_of_none_for_certain(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for file in write_series(make_volume(), tmp_path / name, identity=name):
            shutil.move(file, tmp_path / f"{name}_{file.name}")
    (tmp_path / "empty.dcm").write_bytes(b"")
    assert [series.damaged_beside for series in scan_folder(tmp_path)] == [0, 0]
    assert pile_codes(tmp_path) == {FindingCode.DAMAGED_FILE}


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DicomError, match="expected a folder or file to read"):
        scan_folder(tmp_path / "nowhere")


def test_an_empty_folder_has_no_series(tmp_path: Path) -> None:
    assert scan_folder(tmp_path) == []


@pytest.mark.data
def test_the_real_series_without_uids(data_root: Path) -> None:
    (series,) = scan_folder(data_root / "ct" / "example_ct_dicom")
    assert series.header.series_uid == ""
    assert len(series.frames) == 20
    assert codes(series) == {FindingCode.SERIES_UID_MISSING, FindingCode.SOP_CLASS_MISSING}


@pytest.mark.data
def test_the_real_study_has_five_series(data_root: Path) -> None:
    found = scan_folder(data_root / "mr_study")
    assert sorted(len(series.frames) for series in found) == [22, 22, 22, 22, 32]
    assert {series.modality for series in found} == {"MR"}
