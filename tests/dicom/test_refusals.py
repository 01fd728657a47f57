"""Everything that reading a series refuses, and the reasons it gives."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from medseg.dicom.read import read_series
from medseg.dicom.scan import scan_pile
from medseg.dicom.write import write_series
from medseg.errors import DicomError
from medseg.reading import read_volume, read_volumes
from medseg.volume import Volume
from tests.dicom.one import read_folder, scan_folder
from tests.dicom.written_series import Alter, make_volume, shift


def turned(dataset: pydicom.Dataset) -> None:
    x, y = np.array(dataset.ImageOrientationPatient, dtype=float).reshape(2, 3)
    x, y = x * np.cos(0.02) + y * np.sin(0.02), y * np.cos(0.02) - x * np.sin(0.02)
    dataset.ImageOrientationPatient = [f"{value:.10g}" for value in (*x, *y)]


def cut_pixels(dataset: pydicom.Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:-2]


def cut_jpeg_2000(dataset: pydicom.Dataset) -> None:
    dataset.compress(pydicom.uid.JPEG2000Lossless, generate_instance_uid=False)
    frame = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.PixelData = pydicom.encaps.encapsulate([frame[: 2 * len(frame) // 3 // 2 * 2]])


def wrong_rows_of_jpeg_2000(dataset: pydicom.Dataset) -> None:
    dataset.compress(pydicom.uid.JPEG2000Lossless, generate_instance_uid=False)
    dataset.Rows += 2


def noise_for_jpeg_2000(dataset: pydicom.Dataset) -> None:
    dataset.compress(pydicom.uid.JPEG2000Lossless, generate_instance_uid=False)
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(range(200)) + b"\xff\xd9"])


def text_for_a_position(dataset: pydicom.Dataset) -> None:
    dataset["ImagePositionPatient"] = pydicom.DataElement(
        "ImagePositionPatient",
        "DS",
        ["1", "2", "SECRET"],
        validation_mode=pydicom.config.IGNORE,
        already_converted=True,
    )


def lookup_table(dataset: pydicom.Dataset) -> None:
    dataset.ModalityLUTSequence = [pydicom.Dataset()]


def unknown_syntax(dataset: pydicom.Dataset) -> None:
    dataset.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML


REFUSED: dict[str, tuple[list[int] | None, Any, str]] = {
    "orientation changes": ([3], turned, "1 of 6 slices missing"),
    "orientation is no unit vectors": (None, {"ImageOrientationPatient": [1, 0, 0, 0, 2, 0]}, "right angles"),
    "orientation not at right angles": (None, {"ImageOrientationPatient": [1, 0, 0, 0.6, 0.8, 0]}, "right angles"),
    "rows differ": ([5], {"Rows": 33}, "more pixel data than Rows"),
    "pixel spacing differs": ([2], {"PixelSpacing": ["1.1", "0.85"]}, "1 of 6 slices missing"),
    "no position": ([0], {"ImagePositionPatient": None}, "no valid ImagePositionPatient, .* in 1 of 6"),
    "position is text": ([0], text_for_a_position, "no valid ImagePositionPatient, .* in 1 of 6"),
    "no orientation": (
        [0, 1],
        {"ImageOrientationPatient": None},
        "ImageOrientationPatient or PixelSpacing in 2 of 6",
    ),
    "no pixel spacing": (None, {"PixelSpacing": None}, "PixelSpacing in 6 of 6"),
    "zero pixel spacing": ([1], {"PixelSpacing": ["0", "1"]}, "PixelSpacing in 1 of 6"),
    "two slices at one place": ([2], shift((0, 0, 2.5)), "1 slice.s. at the same place"),
    "two slices at one height": ([2], shift((30, 0, 2.5)), "1 slice.s. at the same place"),
    "uneven distance": ([5], shift((0, 0, 0.08)), r"distances from 2\.[45] to 2\.58 mm"),
    "one slice aside": ([3], shift((0.5, 0, 0)), "0.3.* voxels off the line"),
    "multi-frame": (None, {"NumberOfFrames": 2}, "functional groups"),
    "enhanced class": (None, {"SOPClassUID": pydicom.uid.EnhancedCTImageStorage}, "functional groups"),
    "colour": (None, {"SamplesPerPixel": 3}, "colour"),
    "palette": (None, {"PhotometricInterpretation": "PALETTE COLOR"}, "colour"),
    "mosaic": (None, {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]}, "mosaic of slices"),
    "localizer": ([0], {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer .* in 1 of 1"),
    "absurd size": (None, {"Rows": 65535, "Columns": 65535}, "absurd Rows, Columns or NumberOfFrames"),
    "larger than its pixels": (None, {"Rows": 60, "Columns": 70}, "truncated"),
    "smaller than its pixels": (None, {"Rows": 33}, "more pixel data than Rows"),
    "cut pixels": ([4], cut_pixels, "1 of 6 slices with truncated"),
    "no pixels": ([4], {"PixelData": None}, "1 of 6 slices with no integer pixel data"),
    "cut JPEG 2000": ([4], cut_jpeg_2000, "slice . of 6.*truncated"),
    "noise for JPEG 2000": ([4], noise_for_jpeg_2000, "slice . of 6.*truncated"),
    "JPEG 2000 of another size": (None, wrong_rows_of_jpeg_2000, "truncated"),
    "unknown transfer syntax": (None, unknown_syntax, "transfer syntax.*MPEG2"),
    "CT without rescale": (
        None,
        {"RescaleSlope": None, "RescaleIntercept": None},
        "RescaleSlope and RescaleIntercept.*6 of 6",
    ),
    "slope alone": ([1], {"RescaleIntercept": None}, "RescaleSlope and RescaleIntercept.*1 of 6"),
    "zero slope": ([1], {"RescaleSlope": "0"}, "RescaleSlope and RescaleIntercept.*1 of 6"),
    "lookup table": ([1], lookup_table, "ModalityLUTSequence"),
    "two modalities": ([1], {"Modality": "PT"}, "1 of 6 slices missing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_reason(folder: Path, alter: Alter, case: str) -> None:
    which, change, reason = REFUSED[case]
    if isinstance(change, dict):
        alter(which, **change)
    else:
        alter(which, change)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DicomError, match=reason) as caught:
            read_folder(folder)
    series = scan_folder(folder)
    for secret in ("PHANTOM", series[0].header.series_uid, "SECRET", "slice_"):
        assert secret not in str(caught.value)
    assert any(part.name in str(caught.value) for part in series)


def test_a_missing_slice_is_a_named_gap(folder: Path) -> None:
    sorted(folder.iterdir())[2].unlink()
    with pytest.raises(DicomError, match=r"1 of 6 slices missing: [34] \((5|7\.5) mm from the first\)"):
        read_folder(folder)


def test_a_slow_drift_is_refused(tmp_path: Path) -> None:
    """Distances that each look even (0.8 % apart) but add up to more than a slice's place allows."""
    affine = np.diag([1.0, 1, 2, 1])
    write_series(Volume(np.zeros((2, 2, 40)), affine, modality="MR"), tmp_path / "s", identity="x")
    for k, file in enumerate(sorted((tmp_path / "s").iterdir())):
        dataset = pydicom.dcmread(file)
        dataset.ImagePositionPatient[2] = 2.0 * k * (1 if k < 20 else 1.004)
        dataset.save_as(file)
    with pytest.raises(DicomError, match="off the line|mm between slices"):
        read_folder(tmp_path / "s")


def test_a_file_that_changed_since_the_scan_is_refused(folder: Path, alter: Alter) -> None:
    (series,) = scan_folder(folder)
    alter([3], lambda dataset: setattr(dataset, "Rows", 17) or setattr(dataset, "Columns", 74))
    with pytest.raises(DicomError, match=r"slice . of 6: .*\(OSError\)"):
        read_series(series)


@pytest.mark.parametrize("length", [0, 100, 131, 140, 400, 900])
def test_a_damaged_file_beside_the_slices_is_refused(folder: Path, length: int) -> None:
    """It may be the last slice: without it the stack would look whole."""
    victim = sorted(folder.iterdir())[-1]
    victim.write_bytes(victim.read_bytes()[:length])
    with pytest.raises(DicomError, match="damaged"):
        read_folder(folder)


def test_two_series_are_refused_by_hash(tmp_path: Path) -> None:
    for name, modality in (("a", "CT"), ("b", "MR")):
        write_series(make_volume(modality), tmp_path / name, identity=name)
    names = [series.name for series in scan_folder(tmp_path)]
    with pytest.raises(DicomError, match=rf"2: series {names[0]} \(CT\), series {names[1]} \(MR\)"):
        read_volume(tmp_path)
    assert [read_series(series).modality for series in scan_folder(tmp_path)] == ["CT", "MR"]


def test_no_series_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DicomError, match="an image series that can be read, found no image series"):
        read_folder(tmp_path)


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_is_read_or_refused(folder: Path, seed: int) -> None:
    """Any bytes may come: a series is read or refused with a reason, without a crash or a warning."""
    rng = np.random.default_rng(seed)
    victim = sorted(folder.iterdir())[int(rng.integers(6))]
    content = bytearray(victim.read_bytes())
    for place in rng.integers(132, 1500, int(rng.integers(1, 20))):
        content[place] = int(rng.integers(256))
    if seed % 4 == 0:
        del content[int(rng.integers(len(content))) :]
    victim.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with contextlib.suppress(DicomError):
            refused: list[DicomError] = []
            volumes = read_volumes(folder, refused=refused.append)
            slices = sum(volume.array.shape[2] for volume in volumes)
            said = [finding for volume in volumes for finding in volume.findings]
            assert slices == 6 or refused or said or scan_pile(folder).findings
