"""Grouping of files by header."""

from __future__ import annotations

import shutil
from pathlib import Path

import pydicom
import pytest

from medseg.dicom.scan import scan_folder, series_name
from medseg.dicom.write import write_series
from medseg.errors import DicomError
from medseg.findings import FindingCode
from tests.dicom.written_series import Alter, make_volume


def codes(series: object) -> set[FindingCode]:
    return {finding.code for finding in series.findings}  # type: ignore[attr-defined]


def test_groups_by_series_uid_through_subfolders(tmp_path: Path) -> None:
    uids = {}
    for name, modality in (("a", "CT"), ("b", "MR")):
        files = write_series(make_volume(modality), tmp_path / "study" / name, identity=name)
        uids[modality] = pydicom.dcmread(files[0]).SeriesInstanceUID
    found = scan_folder(tmp_path)
    assert [(s.modality, len(s.headers), s.uid) for s in found] == [("CT", 6, uids["CT"]), ("MR", 6, uids["MR"])]
    assert all(series.findings == () for series in found)


def test_the_name_is_a_hash_and_the_uid_is_not_shown(folder: Path) -> None:
    (series,) = scan_folder(folder)
    assert series.name == series_name(series.uid)
    assert len(series.name) == 12
    assert series.uid not in repr(series)
    assert series.uid not in repr(series.headers[0])


@pytest.mark.parametrize("uid", ["", None])
def test_files_without_a_series_uid_are_one_series_with_a_finding(
    folder: Path, alter: Alter, uid: str | None
) -> None:
    alter(SeriesInstanceUID=uid)
    (series,) = scan_folder(folder)
    assert series.uid == ""
    assert FindingCode.SERIES_UID_MISSING in codes(series)


def test_a_missing_sop_class_is_a_finding(folder: Path, alter: Alter) -> None:
    alter([1], SOPClassUID="")
    (series,) = scan_folder(folder)
    assert codes(series) == {FindingCode.SOP_CLASS_MISSING}
    assert len(series.headers) == 6


def test_other_files_are_skipped_with_findings(folder: Path, alter: Alter) -> None:
    files = sorted(folder.iterdir())
    (folder / "readme.txt").write_text("hello")
    (folder / "thumbs.db").write_bytes(bytes(range(256)))
    shutil.copy(files[0], folder / "report.dcm")
    dataset = pydicom.dcmread(folder / "report.dcm")
    dataset.SOPClassUID = pydicom.uid.BasicTextSRStorage
    dataset.save_as(folder / "report.dcm")
    (series,) = scan_folder(folder)
    assert len(series.headers) == 6
    assert codes(series) == {FindingCode.NOT_DICOM, FindingCode.NOT_AN_IMAGE}
    assert any("2 file(s)" in finding.message for finding in series.findings)


@pytest.mark.parametrize("length", [0, 131, 140, 200, 400, 900])
def test_a_cut_header_is_a_damaged_file(folder: Path, length: int) -> None:
    victim = sorted(folder.iterdir())[-1]
    victim.write_bytes(victim.read_bytes()[:length])
    (series,) = scan_folder(folder)
    assert len(series.headers) == 5
    assert codes(series) == {FindingCode.DAMAGED_FILE}


def test_a_private_object_is_not_an_image(folder: Path) -> None:
    """Such as Siemens' CSA non-image objects, which lie beside images."""
    file = sorted(folder.iterdir())[-1]
    dataset = pydicom.dcmread(file)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.3.12.2.1107.5.9.1"
    del dataset.Rows, dataset.PixelData
    dataset.save_as(file)
    (series,) = scan_folder(folder)
    assert codes(series) == {FindingCode.NOT_AN_IMAGE}


def test_other_folders_findings_stay_there(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_series(make_volume(), tmp_path / name, identity=name)
    (tmp_path / "a" / "note.txt").write_text("x")
    (tmp_path / "top.txt").write_text("x")
    one, two = scan_folder(tmp_path)
    assert "2 file(s)" in one.findings[0].message
    assert "1 file(s)" in two.findings[0].message


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DicomError, match="no such folder"):
        scan_folder(tmp_path / "nowhere")


def test_an_empty_folder_has_no_series(tmp_path: Path) -> None:
    assert scan_folder(tmp_path) == []


@pytest.mark.data
def test_the_real_series_without_uids(data_root: Path) -> None:
    (series,) = scan_folder(data_root / "ct" / "example_ct_dicom")
    assert series.uid == ""
    assert len(series.headers) == 20
    assert codes(series) == {FindingCode.SERIES_UID_MISSING, FindingCode.SOP_CLASS_MISSING}


@pytest.mark.data
def test_the_real_study_has_five_series(data_root: Path) -> None:
    found = scan_folder(data_root / "mr_study")
    assert sorted(len(series.headers) for series in found) == [22, 22, 22, 22, 32]
    assert {series.modality for series in found} == {"MR"}
