"""UIDs and dates of objects: they follow from the images, the mask and the maker, and from no file name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from medseg.dicom.identity import Identity, moment_of
from medseg.dicom.object_parts import frame_of_reference, start_object
from medseg.dicom.origin import Origin, read_origin
from medseg.dicom.output_options import SegOptions
from medseg.dicom.policy import Policies
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.scan import scan_pile
from medseg.dicom.stack import stack_series
from tests.dicom.builder import SAGITTAL, SeriesSpec, write_merged, write_series
from tests.dicom.proving import origin_in
from tests.dicom.segs import MAKER

SPEC = SeriesSpec("identity", shape=(10, 9, 3))
MADE = SegOptions(without_frame_of_reference="make")


def rename(folder: Path, *, is_reversed: bool) -> None:
    """Call the files 0, 1, ... in the order of their instances, or the other way round."""
    files = sorted(folder.iterdir(), key=lambda file: str(dcmread(file).SOPInstanceUID), reverse=is_reversed)
    for number, file in enumerate([file.rename(file.with_suffix(".old")) for file in files]):
        file.rename(folder / f"{number:05d}.dcm")


def parts(folder: Path) -> dict[tuple[int, ...], tuple[str, str, str]]:
    """Return the name and two UIDs of each part of a series by its size."""
    found = {}
    for series in scan_pile(folder).series:
        with quiet_pydicom():
            origin = read_origin(stack_series(series, Policies()))
        identity = Identity(origin, MAKER, "seg")
        found[origin.grid.shape] = series.name, identity.series_uid, identity.tracking_uid("liver")
    return found


def test_names_of_files_do_not_change_uids(tmp_path: Path) -> None:
    write_merged(tmp_path, SPEC, replace(SPEC, name="other", shape=(8, 7, 4), orientation=SAGITTAL))
    rename(tmp_path, is_reversed=False)
    first = parts(tmp_path)
    rename(tmp_path, is_reversed=True)
    assert parts(tmp_path) == first
    assert len(first) == len({uids[1] for uids in first.values()}) == len({uids[2] for uids in first.values()}) == 2


def test_of_a_slice_that_is_there_twice_the_same_copy_is_taken(tmp_path: Path) -> None:
    files = write_series(tmp_path, SPEC)
    copy = dcmread(files[1])
    copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    copy.save_as(tmp_path / "copy.dcm")
    uids = []
    for is_reversed in (False, True):
        rename(tmp_path, is_reversed=is_reversed)
        (series,) = scan_pile(tmp_path).series
        with quiet_pydicom():
            stack = stack_series(series, Policies())
        uids.append([frame.header.sop_instance_uid for frame in stack.frames])
    assert uids[0] == uids[1]
    assert "1.2.3" in uids[0]


def test_other_images_get_other_uids(tmp_path: Path) -> None:
    write_series(tmp_path, SPEC)
    origin = origin_in(tmp_path)
    fewer = replace(origin, stack=replace(origin.stack, frames=origin.frames[:2]))
    assert Identity(fewer, MAKER, "seg").series_uid != Identity(origin, MAKER, "seg").series_uid


def with_attributes(folder: Path, **attributes: Any) -> Origin:
    write_series(folder, replace(SPEC, attributes=attributes))
    return origin_in(folder)


def test_a_made_frame_of_reference_depends_on_the_images_alone(tmp_path: Path) -> None:
    origin = with_attributes(tmp_path, FrameOfReferenceUID=None)
    other = replace(MAKER, model_sha256="ff" * 32, settings_sha256="00" * 32, mask_sha256="11" * 32)
    found = {
        frame_of_reference(origin, Identity(origin, maker, output), MADE)[0]
        for maker in (MAKER, other)
        for output in ("seg", "rtstruct")
    }
    assert len(found) == 1


def test_the_frame_of_reference_is_that_of_any_file(tmp_path: Path) -> None:
    write_series(tmp_path, SPEC)
    uid = origin_in(tmp_path).frame_of_reference_uid
    for lacking in range(3):
        write_series(
            tmp_path,
            replace(
                SPEC, attributes={"FrameOfReferenceUID": lambda k, lacking=lacking: "" if k == lacking else uid}
            ),
        )
        for is_reversed in (False, True):
            origin = origin_in(tmp_path)
            assert origin.frame_of_reference_uid == uid
            assert frame_of_reference(origin, Identity(origin, MAKER, "seg"), SegOptions()) == (uid, [])
            rename(tmp_path, is_reversed=is_reversed)
        for file in tmp_path.iterdir():
            file.unlink()


ALL = {f"{what}{part}": None for what in ("Content", "Acquisition", "Series", "Study") for part in ("Date", "Time")}


@pytest.mark.parametrize(
    ("attributes", "moment"),
    [
        ({"ContentDate": "20200131", "ContentTime": "235960.5"}, ("20200131", "235960")),
        ({"ContentDate": "20200230", "StudyDate": "20200229", "StudyTime": "1005"}, ("20200229", "1005")),
        ({"ContentDate": "20201301", "SeriesDate": "2020.01.01"}, ("", "")),
        ({"ContentDate": "20200131", "ContentTime": "246000"}, ("20200131", "")),
        ({"ContentDate": "20200131", "ContentTime": "10:11:12"}, ("20200131", "")),
        ({"ContentDate": "٢٠٢٠٠١٣١".encode().decode()}, ("", "")),
        ({"ContentTime": "101112"}, ("", "")),
    ],
)
def test_only_valid_dates_and_times_are_taken(
    tmp_path: Path, attributes: dict[str, str], moment: tuple[str, str]
) -> None:
    write_series(tmp_path, SPEC)
    origin = origin_in(tmp_path)
    for keyword, value in (ALL | attributes).items():
        if keyword in origin.datasets[0]:
            del origin.datasets[0][keyword]
        if value is not None:
            with quiet_pydicom():
                setattr(origin.datasets[0], keyword, value)
    assert moment_of(origin) == moment
    made = start_object("1.2", Identity(origin, MAKER, "seg"), SegOptions())
    date, time = moment
    assert (made.ContentDate, made.ContentTime) == (date or "19000101", time or "000000")
    assert (made.get("SeriesDate", ""), made.get("InstanceCreationDate", "")) == (date, date)
    assert (made.get("SeriesTime", ""), made.get("InstanceCreationTime", "")) == (time, time)


def test_what_else_is_known_of_patient_and_time_is_kept(tmp_path: Path) -> None:
    known = {
        "TimezoneOffsetFromUTC": "+0130",
        "LongitudinalTemporalInformationModified": "MODIFIED",
        "PatientSpeciesDescription": "Canis lupus familiaris",
        "ResponsiblePerson": "Doe^Jane",
        "ResponsiblePersonRole": "OWNER",
        "PatientBreedDescription": "Beagle",
    }
    origin = with_attributes(tmp_path, **known)
    made = start_object("1.2", Identity(origin, MAKER, "seg"), SegOptions())
    assert {keyword: str(made[keyword].value) for keyword in known} == known
