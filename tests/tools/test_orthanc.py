"""Objects and their sources go into a real image store, by C-STORE and by STOW-RS, and come back as they were."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.tools.orthanc import Orthanc
from tests.tools.sources import Case

pytestmark = pytest.mark.tools

LONG = ("DS", "OB", "OW")
"""Representations whose bytes are compared as they are: coordinates and pixels."""


@pytest.mark.parametrize("way", ["C-STORE", "STOW-RS"])
def test_all_come_back_equal(orthanc: Orthanc, case: Case, objects: dict[str, Path], way: str) -> None:
    paths = [*case.files, *objects.values()]
    if way == "STOW-RS" and "dicom-web" not in orthanc.plugins():
        pytest.skip("Orthanc has no DICOMweb plugin; .ci/run installs orthanc-dicomweb")
    orthanc.empty()
    (orthanc.c_store if way == "C-STORE" else orthanc.stow)(paths)
    assert orthanc.count() == len(paths)
    files = {uid_of(file): file for file in (path.read_bytes() for path in paths)}
    back = {uid: orthanc.file_of(uid) for uid in files}
    for uid, file in back.items():
        assert_equal(files[uid], file)
    if "dicom-web" in orthanc.plugins():
        by_wado = {uid_of(file): file for name in series_of(files) for file in orthanc.wado(*name)}
        assert by_wado.keys() == files.keys()
        for uid, file in by_wado.items():
            if file != back[uid]:
                assert_equal(files[uid], file)


def series_of(files: dict[str, bytes]) -> set[tuple[str, str]]:
    """Return StudyInstanceUID, the same for all, and SeriesInstanceUID of each series."""
    tags = ["StudyInstanceUID", "SeriesInstanceUID"]
    headers = [pydicom.dcmread(io.BytesIO(file), specific_tags=tags) for file in files.values()]
    series = {(str(one.StudyInstanceUID), str(one.SeriesInstanceUID)) for one in headers}
    assert len({study for study, _ in series}) == 1
    return series


def uid_of(file: bytes) -> str:
    return str(pydicom.dcmread(io.BytesIO(file), specific_tags=["SOPInstanceUID"]).SOPInstanceUID)


def assert_equal(sent: bytes, back: bytes) -> None:
    """Every element is there with the same representation and bytes, in sequences in the same order."""
    if sent == back:
        return
    one, other = (pydicom.dcmread(io.BytesIO(file)) for file in (sent, back))
    assert one.file_meta.MediaStorageSOPClassUID == other.file_meta.MediaStorageSOPClassUID
    syntaxes = {dataset.file_meta.TransferSyntaxUID for dataset in (one, other)}
    assert len(syntaxes) == 1 or syntaxes == {ExplicitVRLittleEndian, ImplicitVRLittleEndian}
    for sent_element, element in zip(elements(one), elements(other), strict=True):
        assert sent_element == element


def elements(dataset: Dataset, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield place, representation and value of every element, those in sequences included."""
    for tag in sorted(dataset.keys()):
        raw, here = dataset.get_item(tag), (*place, tag)
        representation = raw.VR or dictionary_VR(tag)  # not written in implicit VR
        if representation in LONG:
            yield here, representation, raw.value or b""
            continue
        value = dataset[tag].value
        if representation != "SQ":
            yield here, representation, str(value or "")
            continue
        yield here, "SQ", len(value)
        for number, item in enumerate(value):
            yield from elements(item, (*here, number))
