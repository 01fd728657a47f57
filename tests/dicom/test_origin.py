"""Headers of the images that a mask was drawn on: the first one whole, little of others, refused where damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread

from medseg.dicom.identity import Identity
from medseg.dicom.object_parts import start_object
from medseg.dicom.output_options import SegOptions
from medseg.errors import DicomError
from tests.dicom.builder import SeriesSpec, write_series
from tests.dicom.proving import origin_in
from tests.dicom.segs import MAKER, make, noise

SPEC = SeriesSpec("origin", shape=(10, 9, 4))


def damage(folder: Path, keyword: str, charset: str, stored: bytes) -> None:
    """Put bytes in an attribute of every file, whatever character set the files name."""
    room = b"Q" * (len(stored) + len(stored) % 2)
    for file in write_series(folder, replace(SPEC, attributes={"SpecificCharacterSet": charset})):
        dataset = dcmread(file)
        setattr(dataset, keyword, room.decode())
        dataset.save_as(file)
        content = file.read_bytes()
        assert content.count(room) == 1
        file.write_bytes(content.replace(room, stored.ljust(len(room))))


def test_several_patients_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, replace(SPEC, attributes={"PatientID": lambda k: "one" if k else "two2"}))
    with pytest.raises(DicomError, match="expected one patient, found 2 in its files") as caught:
        origin_in(tmp_path)
    assert "two2" not in str(caught.value)


@pytest.mark.parametrize("keyword", ["PatientName", "PatientID", "AccessionNumber"])
def test_a_damaged_name_is_refused(tmp_path: Path, keyword: str) -> None:
    damage(tmp_path, keyword, "ISO_IR 192", "Müller".encode("latin-1"))
    with pytest.raises(DicomError, match=f"expected a {keyword} in the SpecificCharacterSet of the file") as caught:
        origin_in(tmp_path)
    assert "ller" not in str(caught.value)


@pytest.mark.parametrize(
    ("charset", "stored", "text"),
    [
        ("ISO_IR 192", "Müller".encode(), "Müller"),
        ("ISO_IR 100", "Müller".encode("latin-1"), "Müller"),
        ("ISO_IR 192", "M\ufffdller".encode(), "M\ufffdller"),
    ],
)
def test_a_name_that_is_one_is_kept(tmp_path: Path, charset: str, stored: bytes, text: str) -> None:
    damage(tmp_path, "PatientName", charset, stored)
    origin = origin_in(tmp_path)
    made = start_object("1.2", Identity(origin, MAKER, "seg"), SegOptions())
    assert str(made.PatientName).strip() == text


def test_a_damaged_description_is_left_out(tmp_path: Path) -> None:
    damage(tmp_path, "StudyDescription", "ISO_IR 192", "Füße".encode("latin-1"))
    made = start_object("1.2", Identity(origin_in(tmp_path), MAKER, "seg"), SegOptions())
    assert "StudyDescription" not in made


@pytest.mark.parametrize("transfer_syntax", ["explicit", "deflated"])
def test_only_the_first_header_is_kept_whole(tmp_path: Path, transfer_syntax: str) -> None:
    long = {"ImageComments": "x" * 5000}
    write_series(tmp_path, replace(SPEC, attributes=long, transfer_syntax=transfer_syntax))
    origin = origin_in(tmp_path)
    assert "ImageComments" in origin.datasets[0]
    for number in range(1, 4):
        dataset = origin.dataset(number)
        assert len(dataset) <= 6
        assert dataset.SOPInstanceUID == origin.frames[number].header.sop_instance_uid
        assert dataset.SOPClassUID == origin.datasets[0].SOPClassUID
        assert "PixelData" not in dataset


@pytest.mark.parametrize(("said", "expected"), [("abc", 2.5), ("1\\2", 2.5), ("-2.5", 2.5), ("0", 2.5), ("4", 4.0)])
def test_a_thickness_that_is_none_loses_no_study(tmp_path: Path, said: str, expected: float) -> None:
    files = write_series(tmp_path / "source", replace(SPEC, attributes={"SliceThickness": "7777"}))
    for file in files:
        content = file.read_bytes()
        assert content.count(b"7777") == 1
        file.write_bytes(content.replace(b"7777", said.ljust(4).encode()))
    origin = origin_in(tmp_path / "source")
    made = make(origin, noise(origin), tmp_path)
    measures = made.dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SliceThickness == pytest.approx(expected)
