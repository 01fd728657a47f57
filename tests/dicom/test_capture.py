"""Pictures as Secondary Capture, read back by pydicom."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage

from medseg.dicom.capture import make_captures
from medseg.dicom.capture_proof import prove_captures
from medseg.dicom.identity import Identity
from medseg.dicom.object_parts import save_object
from medseg.dicom.origin import Origin
from medseg.dicom.output_options import CaptureOptions
from medseg.errors import UsageError
from medseg.maker import Maker
from tests.dicom.builder import SeriesSpec, write_series
from tests.dicom.enhanced_builder import write_enhanced
from tests.dicom.proving import origin_in

MAKER = Maker("torso", "ab12" * 16)
SPEC = SeriesSpec("capture", shape=(9, 8, 3))


def picture(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(rows).integers(0, 256, (rows, columns, 3), dtype=np.uint8)


PICTURES = [picture(6, 10), picture(5, 7)]  # the second one has an odd number of bytes


def written(folder: Path, origin: Origin, **options: str) -> list[Path]:
    paths = []
    made = make_captures(origin, PICTURES, Identity(origin, MAKER, "capture"), CaptureOptions(**options))
    for number, dataset in enumerate(made):
        save_object(dataset, folder / f"{number}.dcm")
        paths.append(folder / f"{number}.dcm")
    return paths


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    write_series(tmp_path / "series", SPEC)
    return origin_in(tmp_path / "series")


def test_the_pixels_come_back_and_the_series_is_numbered(origin: Origin, tmp_path: Path) -> None:
    datasets = [dcmread(path) for path in written(tmp_path, origin)]
    for number, (dataset, expected) in enumerate(zip(datasets, PICTURES, strict=True), start=1):
        assert np.array_equal(dataset.pixel_array, expected)
        assert (dataset.InstanceNumber, dataset.Modality, dataset.SeriesNumber) == (number, "OT", 9304)
        assert dataset.SOPClassUID == SecondaryCaptureImageStorage
        assert dataset.StudyInstanceUID == origin.study_uid
        assert dataset.PatientID == origin.datasets[0].PatientID
        assert "ImagePositionPatient" not in dataset
        assert len(dataset.PixelData) % 2 == 0
    assert len({dataset.SeriesInstanceUID for dataset in datasets} | {origin.series_uid}) == 2
    assert len({dataset.SOPInstanceUID for dataset in datasets}) == 2


def test_text_in_the_picture_identifies_nobody_and_the_object_says_what_it_is_not_for(
    origin: Origin, tmp_path: Path
) -> None:
    dataset = dcmread(written(tmp_path, origin)[0])
    assert dataset.BurnedInAnnotation == "NO"
    assert dataset.ImageComments.startswith("Not for diagnostic use")
    assert list(dataset.ImageType) == ["DERIVED", "SECONDARY"]
    assert dataset.ConversionType == "WSD"


def test_captures_made_again_have_the_same_bytes(origin: Origin, tmp_path: Path) -> None:
    first = [path.read_bytes() for path in written(tmp_path, origin)]
    assert [path.read_bytes() for path in written(tmp_path, origin_in(tmp_path / "series"))] == first


def test_the_name_of_the_institution_survives(tmp_path: Path) -> None:
    write_series(
        tmp_path / "series", SPEC, attributes={"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller"}
    )
    dataset = dcmread(written(tmp_path, origin_in(tmp_path / "series"), institution="Klinika Łódź")[0])
    assert (str(dataset.PatientName), dataset.InstitutionName) == ("Müller", "Klinika Łódź")


def test_the_proof_accepts_what_is_right(origin: Origin, tmp_path: Path) -> None:
    for path, expected in zip(written(tmp_path, origin), PICTURES, strict=True):
        prove_captures(path, origin, expected)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (0, 4, 3), (65_536, 1, 3)])
def test_what_is_no_picture_is_refused(origin: Origin, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="red, green, blue"):
        make_captures(
            origin, [np.zeros(shape, dtype=np.uint8)], Identity(origin, MAKER, "capture"), CaptureOptions()
        )


def test_values_of_another_type_are_refused(origin: Origin) -> None:
    with pytest.raises(UsageError, match="float64"):
        make_captures(origin, [np.zeros((2, 2, 3))], Identity(origin, MAKER, "capture"), CaptureOptions())


@pytest.mark.tools
@pytest.mark.parametrize("multiframe", [False, True])
def test_the_validator_finds_no_error(tmp_path: Path, multiframe: bool) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    (write_enhanced if multiframe else write_series)(tmp_path / "series", SPEC)
    for path in written(tmp_path, origin_in(tmp_path / "series")):
        said = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False)
        assert "SCImage" in said.stderr + said.stdout
        assert [line for line in (said.stderr + said.stdout).splitlines() if line.startswith("Error")] == []
